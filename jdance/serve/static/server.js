// Requests to the server.

async function answer(response) {
  const content = await response.json().catch(() => null);
  if (!response.ok) {
    throw new Error(content?.error ?? `the server answered ${response.status}`);
  }
  return content;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    const error = new Error("the server cannot be reached; is it still running?");
    throw Object.assign(error, { isOffline: true });
  }
  return response;
}

const get = async (path) => answer(await request(path));

export const info = () => get("/api/info");

export const jobPath = (id) => `/api/jobs/${encodeURIComponent(id)}`;

export const status = (id, from) => get(`${jobPath(id)}?from=${from}`);

/** Cancels a job; if that fails, the server does it after a while. */
export async function remove(id) {
  await fetch(jobPath(id), { method: "DELETE", keepalive: true }).catch(() => {});
}

/** Uploads a file; `fetch` would not report the progress. */
export function upload(file, options, onProgress, signal) {
  const query = new URLSearchParams({ name: file.name, ...options });
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("POST", `/api/jobs?${query}`);
    call.responseType = "json";
    call.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    call.onload = () => {
      if (call.status === 201) resolve(call.response.id);
      else reject(new Error(call.response?.error ?? `the server answered ${call.status}`));
    };
    call.onerror = () => reject(new Error("the server has ended the upload, or is not running"));
    call.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => call.abort());
    call.send(file);
  });
}

/** The last frame of a video in progress, as [bitmap, seconds]. */
export async function preview(id) {
  const response = await request(`${jobPath(id)}/preview`);
  if (!response.ok) return null;
  return [await createImageBitmap(await response.blob()), Number(response.headers.get("X-Time"))];
}

/** The WebSocket of the camera. */
export function live(lag) {
  const url = new URL(`/api/live?lag=${lag}`, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.binaryType = "blob";
  return socket;
}
