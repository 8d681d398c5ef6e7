// The page: starts files and the camera.

import { Camera } from "/static/camera.js";
import * as job from "/static/job.js";
import { $, announce, make, showError } from "/static/page.js";
import { info, player, prepare, reset, setMedia, timeline } from "/static/view.js";

const CAMERA_SECONDS = 30; // of the timeline
let camera = null;

/** Ends what is shown. */
function close() {
  job.close();
  camera?.stop();
  camera = null;
  reset();
}

function openFile(file) {
  close();
  job.open(file);
}

// Camera -------------------------------------------------------------------------------------------

async function openCamera(device) {
  close();
  const mine = new Camera((bitmap, frame) => {
    if (camera !== mine) return;
    if (player.size[0] !== bitmap.width || player.size[1] !== bitmap.height) {
      player.setSize(bitmap.width, bitmap.height);
    }
    // A frame is shown for as long as the one before.
    timeline.add(frame, Math.max(frame.time - player.time, 0.05));
    player.showFrame(bitmap, frame.time, frame.people);
  }, showError);
  camera = mine;
  prepare("Camera", { camera: true });
  setMedia("camera", { window: CAMERA_SECONDS });
  $("waiting").hidden = false;
  $("waiting").textContent = "Starting the camera …";
  try {
    await mine.start($("quick").checked ? 0 : info.lag, device);
    if (camera !== mine) {
      mine.stop();
      return;
    }
    $("waiting").hidden = true;
    player.mirror = $("mirror").checked = !mine.isRear;
    announce("The camera is on.");
    const devices = await mine.devices();
    $("device-label").hidden = devices.length < 2;
    $("device").replaceChildren(...devices.map(({ deviceId, label }, i) => (
      make("option", { value: deviceId }, label || `camera ${i + 1}`)
    )));
    $("device").value = mine.device;
  } catch (error) {
    mine.stop();
    if (camera !== mine) return;
    close();
    showError(error);
  }
}

function showFigures() {
  if (!camera) return;
  timeline.render();
  const figures = camera.figures();
  if (!figures) return;
  const rows = [
    ["Frames per second", figures.fps.toFixed(1)],
    ["Latency, median", `${figures.median.toFixed(0)} ms`],
    ["Latency, 95 %", `${figures.slow.toFixed(0)} ms`],
    ["Recognition", `${figures.server.toFixed(0)} ms`],
  ];
  $("figures").replaceChildren(...rows.flatMap(([name, value]) => (
    [make("dt", {}, name), make("dd", {}, value)]
  )));
  Object.assign($("figures").dataset, figures);
}

// Start --------------------------------------------------------------------------------------------

function describeServer() {
  const megabytes = Number((info.upload_bytes / 2 ** 20).toPrecision(3));
  const minutes = Number((info.seconds / 60).toPrecision(3));
  $("networks").textContent = `Pose: ${info.pose} · Motions: ${info.model}`;
  $("limits").textContent = `Up to ${megabytes} MiB; videos up to ${minutes} minutes.`;
  $("recording-label").hidden = !info.recordings;
  const motions = info.classes.filter((motion) => motion !== "unknown");
  $("motions").textContent = motions.join(", ").replaceAll("_", " ");
}

$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) openFile(target.files[0]);
  target.value = "";
});
$("camera").addEventListener("click", () => openCamera());
$("again").addEventListener("click", () => {
  close();
  $("file").focus();
});
$("cancel").addEventListener("click", () => {
  close();
  announce("Cancelled.");
  $("file").focus();
});
$("stop").addEventListener("click", () => {
  close();
  announce("The camera is off.");
  $("camera").focus();
});
$("device").addEventListener("change", ({ target }) => openCamera(target.value));
$("mirror").addEventListener("change", ({ target }) => { player.mirror = target.checked; });
$("quick").addEventListener("change", async ({ target }) => {
  setMedia("camera", { window: CAMERA_SECONDS });
  player.time = 0;
  await camera?.setLag(target.checked ? 0 : info.lag).catch(showError);
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    if (name === "drop" || !event.relatedTarget) document.body.classList.remove("dragging");
  });
}
document.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) openFile(event.clipboardData.files[0]);
});
setInterval(showFigures, 500);
describeServer();
const wanted = new URLSearchParams(location.hash.slice(1)).get("job");
if (wanted) job.reopen(wanted);
document.documentElement.dataset.ready = "true";
