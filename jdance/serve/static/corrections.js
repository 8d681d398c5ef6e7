// Right motions of dancers, and their manifest.

import {
  addLabel, addRecognized, cleanName, clock, download, hundredths, keepLabels, keptLabels,
  toManifest,
} from "/static/labels.js";
import { $, announce, make } from "/static/page.js";

const OTHER = "\u0000other";
const MIN_REST = 0.02; // seconds of a segment that are worth a label of their own
const STORE = ["sessionStorage", "marks"]; // a reloaded page has its marks again

export class Corrections {
  /**
   * info: of the server.
   * source: now(), the shown moment in seconds; frames(), all of them; segments(), the timeline.
   * onChange(segment, marks): called with the chosen segment or null, and all marks.
   */
  constructor(info, source, onChange) {
    Object.assign(this, { source, onChange });
    $("label").replaceChildren(
      ...Object.keys(info.colors).map((motion) => make("option", { value: motion }, motion)),
      make("option", { value: OTHER }, "another one …"),
    );
    $("label").addEventListener("change", () => this.showOther());
    $("close-correction").addEventListener("click", () => this.close());
    $("correct").addEventListener("keydown", ({ key }) => { if (key === "Escape") this.close(); });
    $("correction").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
    for (const id of ["from", "to"]) {
      $(`${id}-now`).addEventListener("click", () => { $(id).value = hundredths(source.now()); });
    }
    $("manifest").addEventListener("click", () => this.download());
    this.marks = [];
    this.segment = null;
    this.isEnabled = false;
  }

  /** Starts with a file; id: of its job. */
  reset(name, media, id) {
    const marks = id ? keptLabels(...STORE, id) : [];
    Object.assign(this, { name, media, id, marks, isEnabled: false });
    for (const { label } of this.marks) this.offer(label);
    $("rest").checked = false;
    for (const kind of ["image", "video"]) $(`prepare-${kind}`).hidden = media !== kind;
    this.edit(null);
    this.render();
  }

  /** Shows the field for another name; the focus stays, as keys may still choose in the list. */
  showOther() {
    const shown = $("label").value === OTHER;
    $("other-label").hidden = !shown;
    $("other").required = shown;
  }

  /** Adds a motion to the list. */
  offer(motion) {
    const motions = [...$("label").options].map((option) => option.value);
    if (motions.includes(motion)) return;
    $("label").lastChild.before(make("option", { value: motion }, motion));
  }

  /** Shows the form for a segment of the timeline, from `from` seconds on; null hides it. */
  edit(segment, from = segment?.start) {
    this.segment = this.isEnabled ? segment : null;
    $("correct").hidden = !this.segment;
    this.onChange(this.segment, this.marks);
    if (!this.segment) return;
    const { track, motion, start, end, confidence } = segment;
    const span = this.media === "video" ? `, ${clock(start)} to ${clock(end)}` : "";
    $("selected").textContent = `Dancer ${track}${span}: recognized as ${motion} with confidence `
      + `${confidence.toFixed(2)}.`;
    $("label").value = motion;
    $("other").value = "";
    for (const element of document.querySelectorAll("#correction .time")) {
      element.hidden = this.media !== "video";
    }
    $("from").value = hundredths(from);
    $("to").value = hundredths(end);
    this.showOther();
    $("correct").scrollIntoView({ block: "nearest" });
  }

  close() {
    const element = this.segment?.element;
    this.edit(null);
    element?.focus();
  }

  save() {
    const isOther = $("label").value === OTHER;
    const label = isOther ? cleanName($("other").value) : $("label").value;
    const isVideo = this.media === "video";
    const [start, end] = isVideo ? [Number($("from").value), Number($("to").value)] : [0, 1];
    $("to").setCustomValidity(start < end ? "" : "The end must be after the start.");
    $("other").setCustomValidity(label ? "" : "Give it a name.");
    const isValid = $("correction").reportValidity();
    for (const id of ["to", "other"]) $(id).setCustomValidity("");
    if (!isValid) return;
    this.offer(label);
    const { segment } = this;
    this.marks = addLabel(this.marks, { track: segment.track, start, end, label });
    this.render();
    if (isVideo && end > segment.start && segment.end - end > MIN_REST) {
      this.edit(segment, end);
      $("label").focus();
      announce(`Saved: ${label}. The form shows the rest of the motion, from ${clock(end)}.`);
    } else {
      this.close();
      announce(`Saved: ${label}.`);
    }
  }

  render() {
    const { id, marks } = this;
    if (id && (marks.length || keptLabels(...STORE, id).length)) keepLabels(...STORE, id, marks);
    $("marks-card").hidden = !this.marks.length;
    $("marks").replaceChildren(...marks.map((mark) => {
      const span = this.media === "video" ? `, ${clock(mark.start)} to ${clock(mark.end)}` : "";
      const text = `Dancer ${mark.track}${span}: ${mark.label}`;
      const remove = make("button", { type: "button", className: "button" }, "Remove");
      remove.setAttribute("aria-label", `Remove ${text}`);
      remove.addEventListener("click", () => {
        this.marks = this.marks.filter((other) => other !== mark);
        this.render();
        this.onChange(this.segment, this.marks);
        announce(`Removed: ${text}.`);
        ($("marks").querySelector("button") ?? $("title")).focus();
      });
      return make("li", {}, make("span", {}, text), remove);
    }));
  }

  download() {
    const boxes = {};
    for (const { time, people } of this.source.frames()) {
      for (const { track, box } of people) (boxes[track] ??= []).push([time, ...box]);
    }
    const { marks } = this;
    const labels = $("rest").checked ? addRecognized(marks, this.source.segments()) : marks;
    download(toManifest(this.name, labels, boxes, this.media === "video"));
  }
}
