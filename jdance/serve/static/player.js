// Shows an image, a video or single frames, with the people of each drawn over it.

import { clock } from "/static/labels.js";

const HOLD = 0.5; // seconds that people stay without a later frame

export class Player {
  /** overlay: an Overlay; onTime(seconds, people): called when another moment is shown. */
  constructor(elements, overlay, onTime) {
    Object.assign(this, elements, { overlay, onTime });
    this.reset();
    new ResizeObserver(() => this.draw()).observe(this.stage);
    const { video } = this;
    video.addEventListener("error", () => video.getAttribute("src") && this.failed?.());
    video.addEventListener("loadedmetadata", () => {
      if (!video.videoWidth) this.failed?.(); // only its sound can be played
    });
    for (const name of ["seeked", "loadeddata", "timeupdate"]) {
      video.addEventListener(name, () => this.show(video.currentTime + this.offset));
    }
    const step = (now, { mediaTime }) => {
      this.show(mediaTime + this.offset);
      video.requestVideoFrameCallback(step);
    };
    video.requestVideoFrameCallback?.(step);
  }

  reset() {
    this.frames = [];
    this.mode = ""; // "image", "video" or "canvas"
    this.time = 0;
    this.offset = 0; // of the video that is played, in seconds of the original
    this.people = [];
    this.size = [0, 0]; // of the frames' coordinates
    this.burned = false; // the people are part of the video that is played
    this.mirror = false;
    this.failed = null;
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.image.removeAttribute("src");
    this.canvas.width = this.canvas.height = 0;
    this.switch("");
    this.overlay.clear();
  }

  switch(mode) {
    this.mode = mode;
    for (const name of ["image", "video", "canvas"]) this[name].hidden = name !== mode;
  }

  setSize(width, height) {
    this.size = [width, height];
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.draw();
  }

  /** Shows the user's file, a File or an address; failed() if the browser cannot. */
  open(media, source, failed) {
    this.failed = failed;
    if (source instanceof File) this.url = source = URL.createObjectURL(source);
    this.switch(media);
    const element = this[media];
    if (media === "image") {
      element.onerror = () => failed?.();
      element.onload = () => {
        if (!this.size[0]) this.setSize(element.naturalWidth, element.naturalHeight);
      };
    }
    element.src = source;
  }

  /** Shows a single frame with its people. */
  showFrame(bitmap, time, people) {
    const { canvas } = this;
    if (this.mode !== "canvas") this.switch("canvas");
    if (canvas.width !== bitmap.width) canvas.width = bitmap.width;
    if (canvas.height !== bitmap.height) canvas.height = bitmap.height;
    const context = canvas.getContext("2d");
    context.setTransform(this.mirror ? -1 : 1, 0, 0, 1, this.mirror ? bitmap.width : 0, 0);
    context.drawImage(bitmap, 0, 0);
    this.time = time;
    this.people = people;
    this.draw();
    this.onTime(time, people);
  }

  add(frames) {
    this.frames.push(...frames);
    this.show(this.time);
  }

  /** The people at a time: those of the last frame before it. */
  at(time) {
    let [low, high] = [0, this.frames.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.frames[middle].time <= time + 0.002) low = middle + 1;
      else high = middle;
    }
    const frame = this.frames[low - 1];
    return frame && time - frame.time <= HOLD ? frame.people : [];
  }

  show(time) {
    this.time = time;
    this.people = this.at(time);
    this.draw();
    this.onTime(time, this.people);
  }

  seek(time) {
    if (this.mode === "video") this.video.currentTime = Math.max(time - this.offset, 0);
    else this.show(time);
  }

  draw() {
    const { overlay, settings, people } = this;
    const options = { ...settings(), mirror: this.mirror };
    overlay.draw(this.burned ? [] : people, ...this.size, options);
    const names = people.map((p) => `dancer ${p.track}: ${p.motion}`).join(", ");
    const label = names || "no people";
    const when = this.mode === "video" ? ` at ${clock(this.time)}` : "";
    overlay.canvas.setAttribute("aria-label", `Recognized${when}: ${label}`);
  }
}
