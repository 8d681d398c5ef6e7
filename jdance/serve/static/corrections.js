// Right motions of dancers, and their manifest.

import { $, clock, make, showError } from "/static/page.js";
import * as server from "/static/server.js";

const OTHER = "\u0000other";

/** What remains of a mark after another one is saved for the same dancer: 0 to 2 parts. */
function without(mark, { track, start, end }) {
  if (mark.track !== track || mark.end <= start || end <= mark.start) return [mark];
  return [{ ...mark, end: start }, { ...mark, start: end }].filter(
    (part) => part.end - part.start > 0.01,
  );
}

export class Corrections {
  /**
   * info: of the server.
   * now(): the shown moment in seconds.
   * onChange(segment, marks): called with the chosen segment or null, and all marks.
   */
  constructor(info, now, onChange) {
    Object.assign(this, { now, onChange });
    $("label").replaceChildren(
      ...Object.keys(info.colors).map((motion) => make("option", { value: motion }, motion)),
      make("option", { value: OTHER }, "another one …"),
    );
    $("label").addEventListener("change", () => this.showOther());
    $("close-correction").addEventListener("click", () => this.close());
    $("correction").addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
    for (const id of ["from", "to"]) {
      $(`${id}-now`).addEventListener("click", () => { $(id).value = this.now().toFixed(2); });
    }
    $("manifest").addEventListener("click", () => this.download());
    this.marks = [];
    this.segment = null;
    this.isEnabled = false;
  }

  /** Starts with a job. */
  reset(id, media) {
    Object.assign(this, { id, media, marks: [], isEnabled: false });
    this.edit(null);
    this.render();
  }

  /** Shows the field for another name; the focus stays, as keys may still choose in the list. */
  showOther() {
    const shown = $("label").value === OTHER;
    $("other-label").hidden = !shown;
    $("other").required = shown;
  }

  /** Shows the form for a segment of the timeline; null hides it. */
  edit(segment) {
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
    $("from").value = start.toFixed(2);
    $("to").value = end.toFixed(2);
    this.showOther();
    $("correct").scrollIntoView({ block: "nearest" });
  }

  close() {
    const element = this.segment?.element;
    this.edit(null);
    element?.focus();
  }

  save() {
    const label = ($("label").value === OTHER ? $("other").value : $("label").value).trim();
    const isVideo = this.media === "video";
    const [start, end] = isVideo ? [Number($("from").value), Number($("to").value)] : [0, 1];
    $("to").setCustomValidity(start < end ? "" : "The end must be after the start.");
    $("other").setCustomValidity(label ? "" : "Give it a name.");
    const isValid = $("correction").reportValidity();
    for (const id of ["to", "other"]) $(id).setCustomValidity("");
    if (!isValid) return;
    const mark = { track: this.segment.track, start, end, label };
    this.marks = [...this.marks.flatMap((other) => without(other, mark)), mark];
    this.marks.sort((a, b) => a.start - b.start || a.track - b.track);
    this.render();
    this.close();
  }

  render() {
    $("marks-card").hidden = !this.marks.length;
    $("marks").replaceChildren(...this.marks.map((mark) => {
      const span = this.media === "video" ? `, ${clock(mark.start)} to ${clock(mark.end)}` : "";
      const text = `Dancer ${mark.track}${span}: ${mark.label}`;
      const remove = make("button", { type: "button", className: "button" }, "Remove");
      remove.setAttribute("aria-label", `Remove ${text}`);
      remove.addEventListener("click", () => {
        this.marks = this.marks.filter((other) => other !== mark);
        this.render();
        this.onChange(this.segment, this.marks);
      });
      return make("li", {}, make("span", {}, text), remove);
    }));
  }

  async download() {
    try {
      const url = URL.createObjectURL(await server.manifest(this.id, this.marks));
      make("a", { href: url, download: "manifest.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    } catch (error) {
      showError(error);
    }
  }
}
