// The form for right motions on the page of a video; follows labels.js.

const $ = (id) => document.getElementById(id);
const data = $("labeling-data").textContent;
const { path, motions, segments, boxes, video } = JSON.parse(data);
const OTHER = "\u0000other";
const MIN_REST = 0.02; // seconds of a segment that are worth a label of their own
const bars = document.querySelectorAll("rect.bar"); // of the timeline, in the segments' order
// A page that is opened again has its labels again, unless it is a report of launch/serve.py: in
// its sandbox there is no storage.
const STORE = ["localStorage", location.pathname];
const id = hash(data); // another recognition has other dancers
let labels = keptLabels(...STORE, id);

const describe = ({ track, start, end }, motion) => (
  `dancer ${track}, ${clock(start)} to ${clock(end)}: ${motion}`
);

function hash(text) {
  let result = 0;
  for (const character of text) result = (Math.imul(result, 31) + character.codePointAt(0)) | 0;
  return result;
}

/** Adds a motion to the list. */
function offer(motion) {
  if (motions.includes(motion)) return;
  motions.push(motion);
  $("motion").lastChild.before(new Option(motion, motion));
}

/** Fills the form with a segment. */
function choose(number) {
  const { start, end, motion } = segments[number];
  $("segment").value = number;
  $("motion").value = motion;
  $("start").value = hundredths(start);
  $("end").value = hundredths(end);
  showOther();
  bars.forEach((bar, i) => bar.classList.toggle("chosen", i === number));
  if (video && !$("player").hidden) $("player").currentTime = Math.max(start - video.start, 0);
}

function showOther() {
  $("other-label").hidden = $("motion").value !== OTHER;
}

function save() {
  const isOther = $("motion").value === OTHER;
  const label = isOther ? cleanName($("other").value) : $("motion").value;
  const [start, end] = [Number($("start").value), Number($("end").value)];
  $("end").setCustomValidity(start < end ? "" : "The end must be after the start.");
  $("other").setCustomValidity(label ? "" : "Give it a name.");
  const isValid = $("labeling").reportValidity();
  for (const id of ["end", "other"]) $(id).setCustomValidity("");
  if (!isValid) return;
  const { track, start: first, end: last } = segments[$("segment").value];
  labels = addLabel(labels, { track, start, end, label });
  offer(label);
  $("announce").textContent = `Saved: ${describe({ track, start, end }, label)}.`;
  if (end > first && last - end > MIN_REST) { // the rest of the segment follows
    $("start").value = hundredths(end);
    $("end").value = hundredths(last);
  }
  render();
}

function render() {
  if (labels.length || keptLabels(...STORE, id).length) keepLabels(...STORE, id, labels);
  $("labels").replaceChildren(...labels.map((label) => {
    const [item, remove] = [document.createElement("li"), document.createElement("button")];
    const text = describe(label, label.label);
    Object.assign(remove, { type: "button", textContent: "Remove", ariaLabel: `Remove ${text}` });
    remove.addEventListener("click", () => {
      labels = labels.filter((other) => other !== label);
      $("announce").textContent = `Removed: ${text}.`;
      render();
      $("segment").focus();
    });
    item.append(text, remove);
    return item;
  }));
  $("download").disabled = !labels.length && !$("rest").checked;
}

$("segment").append(...segments.map((segment, i) => (
  new Option(describe(segment, segment.motion), i)
)));
$("motion").append(
  ...motions.map((motion) => new Option(motion, motion)), new Option("another one …", OTHER),
);
$("segment").addEventListener("change", () => choose(Number($("segment").value)));
$("motion").addEventListener("change", showOther);
$("rest").addEventListener("change", render);
$("labeling").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
$("download").addEventListener("click", () => {
  const all = $("rest").checked ? addRecognized(labels, segments) : labels;
  download(toManifest(path, all, boxes, true));
});
bars.forEach((bar, i) => bar.addEventListener("click", () => {
  choose(i);
  $("labeling").scrollIntoView({ block: "nearest" });
}));
if (video) {
  // Shown once it is found: the page may have been moved without it.
  $("player").addEventListener("loadedmetadata", () => {
    for (const id of ["player", "start-now", "end-now"]) $(id).hidden = false;
  });
  for (const id of ["start", "end"]) {
    $(`${id}-now`).addEventListener("click", () => {
      $(id).value = hundredths($("player").currentTime + video.start);
    });
  }
  $("player").src = video.path;
}
for (const { label } of labels) offer(label);
choose(0);
render();
