// What is shown of a file or the camera: player, timeline, dancers, corrections.

import { Corrections } from "/static/corrections.js";
import { clock } from "/static/labels.js";
import { Overlay } from "/static/overlay.js";
import { $, make, showError } from "/static/page.js";
import { Player } from "/static/player.js";
import * as server from "/static/server.js";
import { Timeline } from "/static/timeline.js";

export const info = await server.info().catch((error) => {
  showError(error);
  throw error;
});

const overlay = new Overlay($("overlay"), info);
const color = (motion) => overlay.color(motion);
const settings = () => ({
  skeletons: $("show-skeletons").checked,
  boxes: $("show-boxes").checked,
  names: $("show-names").checked,
});
let hasTimes = false;
let shownPeople = "";

export const player = new Player(
  { stage: $("stage"), video: $("video"), image: $("image"), canvas: $("frame-canvas"), settings },
  overlay,
  (time, people) => {
    timeline.setTime(time);
    showPeople(people);
    $("people-time").textContent = hasTimes ? `at ${clock(time)}` : "";
  },
);

export const timeline = new Timeline($("timeline"), color, seek, (segment, byKeyboard) => {
  corrections.edit(segment);
  if (byKeyboard) $("label").focus();
});

const source = {
  now: () => player.time, frames: () => player.frames, segments: () => timeline.segments(),
};

export const corrections = new Corrections(info, source, (segment, marks) => {
  timeline.select(segment);
  timeline.setMarks(marks);
});

export function seek(time) {
  $("follow").checked = false;
  player.seek(time);
}

function showPeople(people) {
  const key = JSON.stringify(people.map((p) => [p.track, p.motion, p.confidence]));
  if (key === shownPeople) return;
  shownPeople = key;
  $("no-people").hidden = people.length > 0;
  $("people").replaceChildren(...people.map(({ track, motion, confidence }) => {
    const fill = make("span");
    fill.style.width = `${100 * confidence}%`;
    fill.style.backgroundColor = color(motion);
    const name = make("span", {}, make("span", { className: "who" }, `${track}: `), motion);
    const bar = make("div", { className: "bar" }, fill);
    return make("li", {}, name, make("span", {}, confidence.toFixed(2)), bar);
  }));
}

function showLegend() {
  $("legend").replaceChildren(...Object.keys(info.colors).map((motion) => {
    const swatch = make("i");
    swatch.style.backgroundColor = color(motion);
    return make("li", {}, swatch, motion);
  }));
}

function show(view) {
  $("start").hidden = view !== "start";
  $("work").hidden = view === "start";
  $("error").hidden = true;
}

/** Returns to the start. */
export function reset() {
  history.replaceState(null, "", "/");
  document.title = "jdance";
  player.reset();
  timeline.reset();
  corrections.reset("", "", null);
  show("start");
}

/** Shows a file or the camera, which have no content yet. */
export function prepare(title, { camera = false } = {}) {
  show("work");
  setTitle(title);
  const hidden = {
    "downloads": true, "keys-card": true, "waiting": true, "follow-label": true,
    "device-label": true, "toolbar": false, "progress-card": camera, "figures-card": !camera,
    "mirror-label": !camera, "quick-label": !camera,
  };
  for (const [id, value] of Object.entries(hidden)) $(id).hidden = value;
  $("follow").checked = true;
  $("timeline-hint").textContent = "";
  $("keys").replaceChildren();
  $("files").replaceChildren();
  $("figures").replaceChildren();
  setMedia("video");
  showPeople([]);
  $("title").focus();
}

export function setTitle(title) {
  $("title").textContent = title;
  document.title = `${title} – jdance`;
}

/** Sets whether there are moments, as in videos, or not, as in images and of the camera. */
export function setMedia(media, options = {}) {
  hasTimes = media === "video";
  $("people-time").textContent = "";
  $("timeline-title").textContent = media === "image" ? "Motions" : "Timeline";
  timeline.reset({ still: media === "image", ...options });
}

export function setProgress(text, value) {
  $("progress-text").textContent = text;
  if (value === null) $("progress").removeAttribute("value");
  else $("progress").value = value;
}

for (const id of ["show-skeletons", "show-boxes", "show-names"]) {
  $(id).addEventListener("change", () => player.draw());
}
player.video.addEventListener("play", () => { $("follow").checked = false; });
addEventListener("resize", () => timeline.render());
showLegend();
