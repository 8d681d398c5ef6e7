// A file: upload, progress, results.

import { clock } from "/static/labels.js";
import { $, announce, counted, duration, make, showError } from "/static/page.js";
import * as server from "/static/server.js";
import {
  corrections, info, player, prepare, reset, seek, setMedia, setProgress, setTitle, timeline,
} from "/static/view.js";

const POLL = 300; // milliseconds
const FILES = {
  json: ["JSON", "all key points and motions"],
  timeline: ["CSV", "timeline as a table"],
  video: ["Video", "annotated"],
  image: ["Image", "annotated"],
  html: ["Report", "one HTML page"],
};
const FORMATS = {
  coco: ["COCO", "key points for pycocotools"],
  openpose: ["OpenPose", "a JSON file per frame"],
  csv: ["Joints", "CSV, a row per joint"],
  eaf: ["ELAN", "a tier per dancer"],
  textgrid: ["Praat", "a tier per dancer"],
  srt: ["SRT", "subtitles"],
  vtt: ["WebVTT", "subtitles"],
  rerun: ["Rerun", "recording for its viewer"],
};
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

let job = null; // the file that is shown

const create = (properties) => ({
  id: null, media: "", state: "queued", next: 0, keys: 0, preview: -1, progress: 0, file: null,
  unplayable: false, files: [], abort: new AbortController(), ...properties,
});
const isEnded = ({ state }) => ["done", "failed", "cancelled"].includes(state);
const sleep = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Ends the job that is shown, if any. */
export function close() {
  if (!job) return;
  job.abort.abort();
  if (job.id && !isEnded(job)) server.remove(job.id);
  job = null;
}

function fail(error) {
  job = null;
  reset();
  showError(error);
}

function options() {
  const form = $("options").elements;
  const result = { every: form.every.value || "1" };
  for (const name of ["annotate", "recording"]) result[name] = form[name].checked ? "1" : "0";
  if (form.start.value) result.start = form.start.value;
  if (form.end.value) result.end = form.end.value;
  return result;
}

/** Uploads a file and shows it, first as the browser does. */
export async function open(file) {
  if (file.size > info.upload_bytes) {
    const size = Math.ceil(file.size / 2 ** 20);
    showError(new Error(`${file.name} has ${size} MiB. ${$("limits").textContent}`));
    return;
  }
  const current = create({ state: "uploading", file });
  job = current;
  prepare(file.name);
  // A guess, until the server knows.
  const isImage = file.type.startsWith("image/") && file.type !== "image/gif";
  player.open(isImage ? "image" : "video", file, () => showServers(current));
  setProgress("Uploading …", 0);
  const onProgress = (loaded, total) => {
    const percent = Math.floor((100 * loaded) / total);
    if (job === current) setProgress(`Uploading … ${percent} %`, loaded / total);
  };
  try {
    current.id = await server.upload(file, options(), onProgress, current.abort.signal);
  } catch (error) {
    if (job === current && error.name !== "AbortError") fail(error);
    return;
  }
  if (job !== current) {
    server.remove(current.id);
    return;
  }
  history.replaceState(null, "", `#job=${current.id}`);
  await follow(current);
}

/** Shows a job again, after the page was reloaded. */
export async function reopen(id) {
  job = create({ id });
  prepare("…");
  setProgress("Loading …", null);
  await follow(job);
}

/** Shows what the server makes of a file that the browser cannot show, or no longer has. */
function showServers(current) {
  if (job !== current) return;
  current.unplayable = true;
  if (current.media === "image") {
    if (current.done) player.open("image", `${server.jobPath(current.id)}/shown`, null);
  } else if (current.state === "done" && current.files.includes("video")) {
    player.burned = true;
    $("toolbar").hidden = true;
    player.offset = player.frames[0]?.time ?? 0;
    player.open("video", `${server.jobPath(current.id)}/files/video?show=1`, null);
  } else {
    player.switch("canvas");
  }
}

async function follow(current) {
  let failures = 0;
  while (job === current) {
    let status;
    try {
      status = await server.status(current.id, current.next);
    } catch (error) {
      if (job !== current) return;
      failures += 1;
      if (!error.isOffline || failures > 5) {
        fail(error);
        return;
      }
      await sleep(1000);
      continue;
    }
    if (job !== current) return;
    failures = 0;
    update(current, status);
    await showProcessed(current, status);
    if (job !== current) return;
    if (isEnded(current) && !status.frames.length) {
      finish(current, status);
      return;
    }
    if (!status.frames.length) await sleep(POLL);
  }
}

function update(current, status) {
  const isFirst = !current.media && status.media;
  for (const key of ["media", "state", "next", "done", "files"]) current[key] = status[key];
  if (isFirst) {
    setTitle(status.name);
    setMedia(status.media);
    corrections.reset(current.file?.name ?? status.name, status.media, current.id);
    if (!current.file && status.playable) {
      const path = `${server.jobPath(current.id)}/media`;
      player.open("video", path, () => showServers(current));
    } else if (!current.file) {
      current.unplayable = true;
      if (status.media === "video") player.switch("canvas");
    } else if (player.mode !== status.media && !current.unplayable) {
      player.open(status.media, current.file, () => showServers(current));
    }
  }
  const { width, height, fps, begin, end } = status.head;
  if (width && (player.size[0] !== width || player.size[1] !== height)) {
    player.setSize(width, height);
  }
  if (end) timeline.span(begin, end);
  if (status.media === "image" && current.unplayable && status.done && player.mode !== "image") {
    showServers(current);
  }
  const period = fps ? 1 / fps : 1;
  for (const frame of status.frames) timeline.add(frame, period);
  if (status.frames.length) {
    player.add(status.frames);
    timeline.render();
  }
  showProgress(current, status);
  addKeyFrames(current, status.key_frames);
}

/** Shows the frame that was processed last, unless the user watches something else. */
async function showProcessed(current, status) {
  const running = current.state === "running" && current.media === "video";
  $("follow-label").hidden = !running || current.unplayable;
  if (!running) return;
  const { video } = player;
  if (current.unplayable) {
    if (!status.preview || status.preview[0] === current.preview) return;
    [current.preview] = status.preview;
    const result = await server.preview(current.id).catch(() => null);
    if (result && job === current && player.mode === "canvas") {
      player.showFrame(result[0], result[1], player.at(result[1]));
    }
  } else if ($("follow").checked && video.paused && !video.seeking && !reducedMotion.matches) {
    const last = player.frames.at(-1);
    if (last && video.readyState > 0) player.seek(last.time);
  }
}

function showProgress(current, { state, done, total, place, seconds_left: left }) {
  if (state === "queued") {
    setProgress(place ? `Waiting for ${counted(place, "other file")} …` : "Waiting …", null);
    announce("Waiting");
  } else if (state === "preparing") {
    setProgress("Preparing … The first file of its size takes longer.", null);
    announce("Preparing");
  } else if (state === "running") {
    const time = left === null ? "" : `about ${duration(left)} left`;
    const count = total ? `Frame ${done} of ${total}` : `Frame ${done}`;
    setProgress(time ? `${count} · ${time}` : count, total ? done / total : null);
    const tenth = total ? Math.floor((10 * done) / total) : 0;
    if (tenth > current.progress) {
      current.progress = tenth;
      announce(`${10 * tenth} percent${time && `, ${time}`}`);
    }
  }
  const isWaiting = current.unplayable && current.media === "video" && !isEnded(current)
    && !player.canvas.width;
  $("waiting").hidden = !isWaiting;
  $("waiting").textContent = "This browser cannot play the file. Its frames appear here as they "
    + "are processed.";
}

function addKeyFrames(current, times) {
  for (; current.keys < times.length; current.keys++) {
    const time = times[current.keys];
    const source = `${server.jobPath(current.id)}/keyframes/${current.keys}`;
    const image = make("img", { src: source, alt: "" });
    const button = make("button", { type: "button" }, image, make("span", {}, clock(time)));
    button.setAttribute("aria-label", `Show the key frame at ${clock(time)}`);
    button.addEventListener("click", () => {
      seek(time);
      $("stage").scrollIntoView({ block: "nearest" });
    });
    $("keys").append(make("li", {}, button));
  }
  $("keys-card").hidden = !times.length;
}

function finish(current, status) {
  if (current.state !== "done") {
    fail(new Error(status.message || "the server has cancelled the job"));
    return;
  }
  $("follow-label").hidden = $("waiting").hidden = $("progress-card").hidden = true;
  if (status.tracks) timeline.finish(status.tracks);
  else timeline.render();
  if (current.unplayable && current.media === "video") showServers(current);
  const count = timeline.rows.size;
  announce(`Done: ${counted(count, "dancer")}.`);
  corrections.isEnabled = true;
  const purpose = current.media === "video" ? "see it, and to correct it" : "correct it";
  $("timeline-hint").textContent = count
    ? `${counted(count, "dancer")}. Choose a motion to ${purpose} for training.`
    : "No people were detected.";
  showFiles(current, status);
  if (status.message) showError(new Error(`${status.name}: ${status.message}`));
  if (current.media === "image") player.show(0);
  else if (player.video.paused) player.seek(player.frames[0]?.time ?? 0);
}

function showFiles(current, status) {
  const link = (kind) => {
    const [name, note] = FILES[kind] ?? FORMATS[kind];
    const path = `${server.jobPath(current.id)}/files/${kind}`;
    const element = kind === "html"
      ? make("a", { href: `${path}?show=1`, target: "_blank", rel: "noopener" })
      : make("a", { href: path, download: "" });
    element.append(name, make("small", {}, note));
    return make("li", {}, element);
  };
  const links = (kinds) => (
    Object.keys(kinds).filter((kind) => status.files.includes(kind)).map(link)
  );
  $("files").replaceChildren(...links(FILES));
  $("formats").replaceChildren(...links(FORMATS));
  const each = status.frame_milliseconds;
  $("speed").textContent = each && current.media === "video"
    ? `${counted(status.done, "frame")}, ${each.toFixed(0)} ms each.` : "";
  $("downloads").hidden = false;
}
