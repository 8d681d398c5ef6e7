// Labeled motions of dancers, and their manifest for launch/prepare.py: for the web page and for
// the page of a video. A label is {track, start, end, label} with times in seconds.

// A box holds for one row only, as dancers move: a row per frame at the default frame rate of
// launch/prepare.py.
const ROW_SECONDS = 0.5;
const MIN_SECONDS = 0.001; // the resolution of the manifest

/** The parts of a label that another one of the same dancer does not cover: 0 to 2. */
function uncovered(old, { track, start, end }) {
  if (old.track !== track || old.end <= start || end <= old.start) return [old];
  return [{ ...old, end: start }, { ...old, start: end }].filter(
    (part) => part.end - part.start > 0.01,
  );
}

const byTime = (a, b) => a.start - b.start || a.track - b.track;

/** Adds a label, which replaces others of the same dancer and time. */
export function addLabel(labels, label) {
  return [...labels.flatMap((old) => uncovered(old, label)), label].sort(byTime);
}

/** Adds the recognized motions of all times without a label; segments have a `motion`. */
export function addRecognized(labels, segments) {
  const rest = segments.flatMap(({ track, start, end, motion }) => labels.reduce(
    (parts, label) => parts.flatMap((part) => uncovered(part, label)),
    [{ track, start, end, label: motion }],
  ));
  return [...labels, ...rest].sort(byTime);
}

/** A time as text in hundredths of a second, rounded down: not after its frame. */
export const hundredths = (seconds) => (Math.floor(100 * seconds + 1e-6) / 100).toFixed(2);

/** Formats a moment in seconds as 1:02.0. */
export function clock(seconds) {
  const tenths = Math.round(10 * Math.max(seconds, 0));
  const rest = (tenths % 600) / 10;
  return `${Math.floor(tenths / 600)}:${rest < 10 ? "0" : ""}${rest.toFixed(1)}`;
}

/** A name for a motion in one line. */
export const cleanName = (text) => text.replace(/[\p{C}\s]+/gu, " ").trim();

const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

/**
 * The lines of manifest.csv: path, label, start, end, box.
 * name: of the file, relative to the manifest.
 * boxes: track -> [[seconds, x, y, width, height], ...] in order of time, in pixels.
 * isVideo: images have no times.
 */
export function toManifest(name, labels, boxes, isVideo) {
  const rows = [];
  for (const { track, start, end, label } of labels) {
    let last = -1; // number of the row before
    for (const [time, ...box] of boxes[track] ?? []) {
      if (time < start || time >= end) continue;
      const number = Math.floor((time - start) / ROW_SECONDS);
      // Directly after the row before, not to lose the frames between two boxes.
      const first = number > 0 && number === last + 1 ? start + number * ROW_SECONDS : time;
      const begin = Math.floor(first * 1000 + 1e-6) / 1000; // rounded down, not to lose its frame
      const until = Math.min(start + (number + 1) * ROW_SECONDS, end);
      if (number === last || until - begin < MIN_SECONDS) continue;
      last = number;
      const span = isVideo ? [begin.toFixed(3), until.toFixed(3)] : ["", ""];
      rows.push([begin, [name, label, ...span, box.join(" ")]]);
    }
  }
  rows.sort((a, b) => a[0] - b[0]);
  const lines = [["path", "label", "start", "end", "box"], ...rows.map(([, row]) => row)];
  return lines.map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

/**
 * The labels that were kept under a key for the same id; [] if there are none.
 * storage: "sessionStorage" of the tab or "localStorage", by name, as a browser may block both.
 */
export function keptLabels(storage, key, id) {
  try {
    const kept = JSON.parse(globalThis[storage].getItem(key));
    return kept?.id === id ? kept.labels : [];
  } catch {
    return [];
  }
}

/** Keeps labels for a page that is loaded again. */
export function keepLabels(storage, key, id, labels) {
  try {
    globalThis[storage].setItem(key, JSON.stringify({ id, labels }));
  } catch {
    // Blocked or full: only a reload loses the labels.
  }
}

/** Downloads a text as manifest.csv. */
export function download(text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  Object.assign(document.createElement("a"), { href: url, download: "manifest.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
