// Requests to the server.

/** Error that the server reports, with the remedy. */
export class ApiError extends Error {
  constructor(error, remedy, status) {
    super(error);
    this.remedy = remedy;
    this.status = status;
  }
}

/** Send a request and return the answer as JSON. */
export async function request(method, path, body, signal) {
  return (await answered(method, path, body, signal)).json();
}

/** Return float32 values and their shape. */
export async function values(path, signal) {
  const answer = await answered("GET", path, undefined, signal);
  const shape = answer.headers.get("X-Shape").split(",").map(Number);
  return { data: new Float32Array(await answer.arrayBuffer()), shape };
}

async function answered(method, path, body, signal) {
  const options = { method, signal, headers: {} };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer", "check that neuroscope ui is running", 0);
  }
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => ({}));
  throw new ApiError(refusal.error ?? `status ${answer.status}`, refusal.remedy ?? "", answer.status);
}

/**
 * Send a request whose progress is shown and that can be cancelled.
 * `onProgress` gets {stage, done, total}; `signal` cancels the work on the server too.
 */
export async function work(path, body, onProgress, signal) {
  // not randomUUID, which only https and this machine have
  const job = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  let ended = false;
  const cancel = () => fetch(`/api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
  signal.addEventListener("abort", cancel, { once: true });
  const timer = setInterval(async () => {
    const answer = await fetch(`/api/jobs/${job}`).catch(() => null);
    const progress = answer?.ok ? await answer.json() : null;
    if (progress && !ended) onProgress(progress);
  }, 300);
  try {
    return await request("POST", path, { ...body, job }, signal);
  } finally {
    ended = true;
    clearInterval(timer);
    signal.removeEventListener("abort", cancel);
  }
}
