// The motions of each dancer over time, as rows of buttons.

import { clock } from "/static/labels.js";
import { make } from "/static/page.js";

const STEPS = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const MAX_GAP = 1; // seconds without a frame after which a segment ends

export class Timeline {
  /**
   * root: the element that is filled.
   * color: motion -> CSS color.
   * onSeek(seconds), onSelect(segment, byKeyboard): called when one is chosen.
   */
  constructor(root, color, onSeek, onSelect) {
    Object.assign(this, { root, color, onSeek, onSelect });
    this.head = make("div", { className: "head" });
    this.axis = make("div", { className: "axis" });
    this.axis.setAttribute("aria-hidden", "true");
    this.reset();
  }

  reset({ window = null, still = false } = {}) {
    this.rows = new Map(); // track -> {row, bar, segments}
    this.window = window; // seconds that are shown, of a camera
    this.still = still; // an image: one segment per person, no times
    this.root.classList.toggle("still", still);
    this.marks = [];
    this.begin = 0;
    this.end = 1;
    this.time = 0;
    this.selected = null;
    this.root.replaceChildren(this.axis, this.head);
    this.head.hidden = this.axis.hidden = still;
    this.ticks = "";
  }

  /** Sets the shown time span in seconds. */
  span(begin, end) {
    this.begin = begin;
    this.end = Math.max(end, begin + 0.001);
  }

  /** Adds the people of the next frame; a frame lasts `period` seconds. */
  add(frame, period) {
    const gap = Math.max(MAX_GAP, 2.5 * period);
    for (const { track, motion, confidence } of frame.people) {
      const { segments } = this.row(track);
      const last = segments.at(-1);
      if (last && frame.time - last.end <= gap) {
        if (last.motion === motion) {
          last.end = frame.time + period;
          last.sum += confidence;
          last.count += 1;
          last.confidence = last.sum / last.count;
          continue;
        }
        last.end = frame.time;
      }
      segments.push({
        track, motion, confidence, start: frame.time, end: frame.time + period,
        sum: confidence, count: 1,
      });
    }
    if (this.window !== null) {
      this.span(Math.max(0, frame.time - this.window), Math.max(frame.time, this.window));
      this.forget();
    }
  }

  /** Replaces all segments by the final ones of the result file. */
  finish(tracks) {
    for (const { bar } of this.rows.values()) bar.replaceChildren();
    for (const row of this.rows.values()) row.segments = [];
    for (const { track, segments } of tracks) {
      this.row(track).segments = segments.map((segment) => ({ ...segment, track }));
    }
    for (const [track, { row, segments }] of this.rows) {
      if (!segments.length) {
        row.remove();
        this.rows.delete(track);
      }
    }
    this.selected = null;
    this.render();
  }

  segments() {
    return [...this.rows.values()].flatMap((row) => row.segments);
  }

  forget() {
    for (const [track, entry] of this.rows) {
      while (entry.segments.length && entry.segments[0].end < this.begin) {
        entry.segments.shift().element?.remove();
      }
      if (!entry.segments.length) {
        entry.row.remove();
        this.rows.delete(track);
      }
    }
  }

  row(track) {
    let entry = this.rows.get(track);
    if (entry) return entry;
    const name = make("span", {}, `dancer ${track}`);
    name.setAttribute("aria-hidden", "true");
    const bar = make("div", { className: "track" });
    const row = make("div", { className: "row" }, name, bar);
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `dancer ${track}`);
    bar.addEventListener("click", (event) => {
      const box = bar.getBoundingClientRect();
      const fraction = (event.clientX - box.left) / box.width;
      this.onSeek(this.begin + fraction * (this.end - this.begin));
    });
    bar.addEventListener("keydown", (event) => this.move(event, entry));
    entry = { row, bar, segments: [] };
    this.rows.set(track, entry);
    const later = [...this.rows.keys()].filter((other) => other > track).sort((a, b) => a - b)[0];
    this.root.insertBefore(row, later === undefined ? this.axis : this.rows.get(later).row);
    return entry;
  }

  /** Arrow keys move among the segments of a row, which is one stop of the tab key. */
  move(event, { segments }) {
    const at = segments.findIndex(({ element }) => element === document.activeElement);
    const next = {
      ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: segments.length - 1,
    }[event.key];
    if (at < 0 || !segments[next]) return;
    event.preventDefault();
    segments[at].element.tabIndex = -1;
    segments[next].element.tabIndex = 0;
    segments[next].element.focus();
  }

  select(segment) {
    if (segment === this.selected) return;
    this.selected?.element?.setAttribute("aria-pressed", "false");
    this.selected = segment;
    segment?.element?.setAttribute("aria-pressed", "true");
  }

  /** Shows the saved motions below the recognized ones. */
  setMarks(marks) {
    if (marks === this.marks) return;
    this.marks = marks;
    this.render();
  }

  describe({ track, motion, start, end, confidence }) {
    const time = this.still ? "" : ` ${clock(start)} to ${clock(end)}`;
    const saved = this.marks.filter((mark) => (
      mark.track === track && mark.start < end && start < mark.end
    )).map(({ label }) => `, saved as ${label}`).join("");
    return `${motion}${time}, confidence ${confidence.toFixed(2)}${saved}`;
  }

  button(segment, bar, isFirst) {
    const element = make("button", { type: "button", className: "segment" });
    element.tabIndex = isFirst ? 0 : -1;
    element.setAttribute("aria-pressed", "false");
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      const keyboard = event.detail === 0;
      const box = bar.getBoundingClientRect();
      const fraction = (event.clientX - box.left) / box.width;
      this.onSeek(keyboard ? segment.start : this.begin + fraction * (this.end - this.begin));
      this.onSelect(segment, keyboard);
    });
    bar.append(element);
    return element;
  }

  /** Updates the elements. */
  render() {
    const percent = (seconds) => `${(100 * (seconds - this.begin)) / (this.end - this.begin)}%`;
    for (const [track, { bar, segments }] of this.rows) {
      this.renderMarks(track, bar, percent);
      const hasStop = segments.some(({ element }) => element?.tabIndex === 0);
      segments.forEach((segment, i) => {
        segment.element ??= this.button(segment, bar, !hasStop && i === 0);
        const { element } = segment;
        const start = Math.max(segment.start, this.begin);
        element.style.left = percent(start);
        element.style.width = percent(this.begin + Math.max(segment.end - start, 0));
        element.style.backgroundColor = this.color(segment.motion);
        if (element.textContent !== segment.motion) element.textContent = segment.motion;
        const described = this.describe(segment);
        if (element.title !== described) {
          element.title = described;
          element.setAttribute("aria-label", described);
        }
      });
    }
    this.renderAxis(percent);
    this.setTime(this.time);
  }

  renderMarks(track, bar, percent) {
    for (const element of bar.querySelectorAll(".mark")) element.remove();
    const own = this.marks.filter((mark) => mark.track === track);
    bar.classList.toggle("marked", own.length > 0);
    for (const { start, end, label } of own) {
      const element = make("span", { className: "mark" }, label);
      element.setAttribute("aria-hidden", "true"); // part of the segments' descriptions
      element.style.left = percent(start);
      element.style.width = percent(this.begin + end - start);
      bar.append(element);
    }
  }

  renderAxis(percent) {
    const length = this.end - this.begin;
    const room = Math.max(2, this.root.clientWidth / 90);
    const step = STEPS.find((candidate) => length / candidate <= room) ?? 7200;
    const first = Math.ceil(this.begin / step - 1e-6) * step;
    const times = [];
    for (let time = first; time <= this.end - 0.04 * length + 1e-6; time += step) times.push(time);
    const ticks = `${times} ${this.begin} ${this.end}`;
    if (ticks === this.ticks) return;
    this.ticks = ticks;
    this.axis.replaceChildren(...times.map((time) => {
      const tick = make("span", {}, clock(time));
      tick.style.left = percent(time);
      return tick;
    }));
  }

  /** Moves the marker of the current time. */
  setTime(seconds) {
    this.time = seconds;
    const offset = this.axis.offsetLeft;
    const fraction = (seconds - this.begin) / (this.end - this.begin);
    this.head.style.left = `${offset + Math.min(Math.max(fraction, 0), 1) * this.axis.clientWidth}px`;
  }
}
