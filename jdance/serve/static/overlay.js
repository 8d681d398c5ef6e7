// Draws skeletons, boxes and motions of people over an image.

export const COLORS = { right: "#ff8c28", left: "#3caaff", middle: "#f5f5f5" };

export class Overlay {
  constructor(canvas, info) {
    this.canvas = canvas;
    this.info = info;
    this.sides = info.limbs.map(([a, b]) => {
      const sides = [info.sides[a], info.sides[b]];
      return ["right", "left", "middle"].find((side) => sides.includes(side));
    });
  }

  color(motion) {
    return this.info.colors[motion];
  }

  clear() {
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Draws people of an image of width x height pixels, which fills the canvas. */
  draw(people, width, height, { skeletons, boxes, names, mirror = false }) {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    const pixels = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (this.canvas.width !== pixels[0]) this.canvas.width = pixels[0];
    if (this.canvas.height !== pixels[1]) this.canvas.height = pixels[1];
    this.clear();
    if (!width || !height || !pixels[0]) return;
    const context = this.canvas.getContext("2d");
    const scale = Math.min(pixels[0] / width, pixels[1] / height);
    const left = (pixels[0] - width * scale) / 2;
    const top = (pixels[1] - height * scale) / 2;
    const x = (value) => left + (mirror ? width - value : value) * scale;
    const y = (value) => top + value * scale;
    const unit = Math.max(ratio, Math.min(width * scale, 3 * height * scale) / 640);
    context.lineCap = "round";
    if (skeletons) for (const person of people) this.skeleton(context, person, x, y, unit);
    for (const person of people) {
      if (!boxes) break;
      const [bx, by, w, h] = person.box;
      context.strokeStyle = this.color(person.motion);
      context.lineWidth = 2 * unit;
      context.strokeRect(x(mirror ? bx + w : bx), y(by), w * scale, h * scale);
    }
    const taken = [];
    for (const person of people) {
      if (!names) break;
      const [bx, by, w] = person.box;
      const text = `${person.track}: ${person.motion} ${person.confidence.toFixed(2)}`;
      const corner = [x(mirror ? bx + w : bx), y(by)];
      this.label(context, text, corner, this.color(person.motion), unit, ratio, taken);
    }
  }

  skeleton(context, person, x, y, unit) {
    const points = person.keypoints;
    for (const dark of [true, false]) { // a dark outline, then the limb
      this.info.limbs.forEach(([a, b], limb) => {
        if (!points[a][2] || !points[b][2]) return;
        context.strokeStyle = dark ? "#141414" : COLORS[this.sides[limb]];
        context.lineWidth = (dark ? 5 : 3) * unit;
        context.beginPath();
        context.moveTo(x(points[a][0]), y(points[a][1]));
        context.lineTo(x(points[b][0]), y(points[b][1]));
        context.stroke();
      });
    }
    context.fillStyle = COLORS.middle;
    for (const [px, py, score] of points) {
      if (!score) continue;
      context.beginPath();
      context.arc(x(px), y(py), 2.5 * unit, 0, 2 * Math.PI);
      context.fill();
    }
  }

  label(context, text, [cornerX, cornerY], color, unit, ratio, taken) {
    const size = Math.max(10.5 * ratio, 11 * unit);
    const pad = 0.3 * size;
    context.font = `600 ${size}px system-ui, sans-serif`;
    const width = context.measureText(text).width + 2 * pad;
    const height = size + 2 * pad;
    const { width: right, height: bottom } = this.canvas;
    const left = Math.max(0, Math.min(cornerX, right - width));
    let top = Math.max(0, Math.min(cornerY - height, bottom - height));
    const overlaps = (other) => left < other.left + other.width && other.left < left + width
      && top < other.top + other.height && other.top < top + height;
    for (let tries = 0; tries < taken.length; tries++) {
      const below = taken.filter(overlaps).map((other) => other.top + other.height);
      if (!below.length) break;
      top = Math.max(...below);
    }
    taken.push({ left, top, width, height });
    context.fillStyle = color;
    context.fillRect(left, top, width, height);
    context.fillStyle = "#fff";
    context.textBaseline = "middle";
    context.fillText(text, left + pad, top + height / 2 + 0.05 * size);
  }
}
