// The camera: sends frames, one at a time, and returns them with their people.

import * as server from "/static/server.js";

const SIDE = 640; // pixels of the longer side of the frames that are sent
const QUALITY = 0.85;
const KEPT = 300; // latencies for the figures

function quantile(values, fraction) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(fraction * sorted.length))];
}

export class Camera {
  /** onFrame(bitmap, frame), onError(error): called until `stop`; the bitmap is closed after. */
  constructor(onFrame, onError) {
    Object.assign(this, { onFrame, onError });
    this.video = document.createElement("video");
    this.video.muted = this.video.playsInline = true;
    this.canvas = document.createElement("canvas");
    this.reset();
  }

  reset() {
    this.sent = new Map(); // number -> {bitmap, at}
    this.number = 0;
    this.latencies = [];
    this.drawn = [];
    this.serverTimes = [];
    this.isFresh = this.isBusy = false;
  }

  /** Opens a camera; lag: seconds of delay for smoothing. */
  async start(lag, device) {
    this.lag = lag;
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("browsers give the camera only to https:// pages and to localhost");
    }
    const video = device ? { deviceId: { exact: device } } : { facingMode: "user" };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { ...video, width: { ideal: 640 }, height: { ideal: 480 } },
      });
    } catch (error) {
      const reason = { NotAllowedError: "was not allowed", NotFoundError: "was not found" };
      throw new Error(`the camera ${reason[error.name] ?? `cannot be used (${error.message})`}`);
    }
    this.video.srcObject = this.stream;
    await this.video.play();
    await this.connect();
  }

  /** Connects with the newest lag; replaces a connection with another one. */
  connect() {
    const before = this.socket;
    this.reset();
    const socket = server.live(this.lag);
    this.socket = socket;
    before?.close();
    socket.onmessage = (event) => this.receive(JSON.parse(event.data));
    return new Promise((resolve, reject) => {
      socket.onopen = () => {
        this.watch(socket);
        resolve();
      };
      socket.onclose = (event) => {
        if (this.socket !== socket) {
          resolve();
          return;
        }
        const error = new Error(event.reason || "the server has closed the camera's connection");
        reject(error);
        this.onError(error);
      };
    });
  }

  /** Reconnects with another lag; before the camera has started, only keeps it for then. */
  async setLag(lag) {
    this.lag = lag;
    if (this.socket) await this.connect();
  }

  /** Sends each frame of the camera that comes while none is on its way. */
  watch(socket) {
    const step = () => {
      if (this.socket !== socket) return;
      this.isFresh = true;
      this.next();
      if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(step);
      else requestAnimationFrame(step);
    };
    step();
  }

  next() {
    const { socket } = this;
    if (!this.isFresh || this.isBusy || socket?.readyState !== WebSocket.OPEN) return;
    this.isFresh = false;
    this.isBusy = true;
    this.send(socket);
  }

  async send(socket) {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, SIDE / Math.max(videoWidth, videoHeight));
    this.canvas.width = Math.round(videoWidth * scale);
    this.canvas.height = Math.round(videoHeight * scale);
    const at = performance.now();
    this.canvas.getContext("2d").drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height);
    const [bitmap, blob] = await Promise.all([
      createImageBitmap(this.canvas),
      new Promise((resolve) => this.canvas.toBlob(resolve, "image/jpeg", QUALITY)),
    ]);
    if (this.socket !== socket || socket.readyState !== WebSocket.OPEN) return;
    this.sent.set(this.number++, { bitmap, at });
    socket.send(blob);
  }

  receive({ error, done, frames, milliseconds }) {
    this.isBusy = false;
    this.next();
    if (error) {
      this.onError(new Error(error));
      this.sent.delete(done);
    }
    this.serverTimes = [...this.serverTimes.slice(1 - KEPT), milliseconds];
    for (const frame of frames) {
      const entry = this.sent.get(frame.index);
      if (!entry) continue;
      this.onFrame(entry.bitmap, frame);
      const now = performance.now();
      this.latencies = [...this.latencies.slice(1 - KEPT), now - entry.at];
      this.drawn = [...this.drawn.slice(1 - KEPT), now];
      for (const [number, { bitmap }] of this.sent) {
        if (number > frame.index) break;
        bitmap.close();
        this.sent.delete(number);
      }
    }
  }

  /** Frames per second, latency from capture to drawing in ms, and the server's time in ms. */
  figures() {
    if (this.drawn.length < 2) return null;
    const seconds = (this.drawn.at(-1) - this.drawn[0]) / 1000;
    return {
      count: this.latencies.length,
      fps: (this.drawn.length - 1) / seconds,
      median: quantile(this.latencies, 0.5),
      slow: quantile(this.latencies, 0.95),
      server: quantile(this.serverTimes, 0.5),
    };
  }

  /** The cameras of this device, once one is allowed. */
  async devices() {
    const all = await navigator.mediaDevices.enumerateDevices();
    return all.filter(({ kind }) => kind === "videoinput");
  }

  get device() {
    return this.stream?.getVideoTracks()[0]?.getSettings().deviceId;
  }

  /** Whether the camera faces away from the user. */
  get isRear() {
    return this.stream?.getVideoTracks()[0]?.getSettings().facingMode === "environment";
  }

  stop() {
    const { socket } = this;
    this.socket = null;
    socket?.close();
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }
}
