// Calls to the service. Addresses are relative, as it may stand behind a prefix.

const BUSY_TRIES = 5; // of a photo that a busy service refuses, each after the time that it names
const LOST_TRIES = 5; // of a question after a job, in a row: the network may be away for a moment
const FIRST_PAUSE_MS = 150;
const LONGEST_PAUSE_MS = 1000;

let key = "";

export function useKey(value) {
  key = value;
}

// What went wrong: `kind` is the last part of the problem document's type, `detail` its text.
export class Problem extends Error {
  constructor(status, kind, detail, retryAfter = 2) {
    super(detail);
    Object.assign(this, { status, kind, detail, retryAfter });
  }

  static of(document, retryAfter) {
    return new Problem(document.status, document.type.split(":").pop(), document.detail, retryAfter);
  }
}

function problemFrom(status, text, retryAfter) {
  try {
    return Problem.of(JSON.parse(text), Number(retryAfter) || undefined);
  } catch { // a proxy's own page
    return new Problem(status, "no-answer", `The answer was ${status}, and not the service's own.`);
  }
}

const unreachable = () => new Problem(0, "unreachable", "Is it still running, and are you connected?");
const keyed = () => (key ? { "x-api-key": key } : {});

// The body of an answer, as `kind`: "json" or "blob". The connection may be lost while it comes, too.
async function call(path, kind, options = {}) {
  let answer, body;
  try {
    answer = await fetch(path, { headers: keyed(), ...options });
    body = await (answer.ok ? answer[kind]() : answer.text());
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!answer.ok) throw problemFrom(answer.status, body, answer.headers.get("retry-after"));
  return body;
}

// What this service offers: its steps, its models, and the values of its parameters.
export async function offers() {
  const [{ steps, models }, api] = await Promise.all([call("v1/models", "json"), call("openapi.json", "json")]);
  const values = {};
  for (const { name, schema } of api.paths["/v1/process"].post.parameters) {
    values[name] = (schema.anyOf || [schema]).flatMap(one => one.enum || (one.const ? [one.const] : []));
  }
  const editors = models.filter(model => model.attributes).map(model => model.attributes);
  const attributes = editors.length ? editors.reduce((all, more) => all.filter(name => more.includes(name))) : [];
  return { steps, models, styles: values.style, scales: values.scale, formats: values.format, attributes };
}

function wait(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", stop, { once: true });
  });
}

// The body of a request: the photo as it is, or a form where there is a donor.
function bodyOf(photo, swap) {
  if (!swap) return photo;
  const form = new FormData();
  form.append("image", photo);
  form.append("donor", swap.donor);
  form.append("consent", String(swap.consent));
  return form;
}

// Sends a photo as a new job. XMLHttpRequest, as fetch does not tell how much was sent.
function submit(query, body, tell, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let arrived = false;
    request.open("POST", `v1/process?${query}`);
    request.setRequestHeader("prefer", "respond-async");
    for (const [name, value] of Object.entries(keyed())) request.setRequestHeader(name, value);
    if (!(body instanceof FormData)) request.setRequestHeader("content-type", body.type || "application/octet-stream");
    request.upload.onprogress = event => tell("sending", event.loaded / event.total);
    request.upload.onload = () => { arrived = true; tell("queued"); };
    request.onload = () => request.status === 202
      ? resolve(JSON.parse(request.responseText).id)
      : reject(problemFrom(request.status, request.responseText, request.getResponseHeader("retry-after")));
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(signal.reason);
    // Once the photo has arrived there may be a job: its id is waited for, so that it can be ended.
    signal.addEventListener("abort", () => arrived || request.abort());
    request.send(body);
  });
}

async function submitted(query, body, tell, signal) {
  for (let tries = BUSY_TRIES; ; tries--) {
    try {
      return await submit(query, body, tell, signal);
    } catch (problem) {
      if (problem.status !== 503 || tries <= 1) throw problem;
      tell("busy", problem.retryAfter);
      await wait(1000 * problem.retryAfter, signal);
    }
  }
}

// Asks until `ready` takes the answer, and gives that.
async function asked(path, kind, ready, signal) {
  let pause = FIRST_PAUSE_MS, lost = 0;
  for (;;) {
    try {
      const answer = await call(path, kind, { signal });
      if (ready(answer)) return answer;
      lost = 0;
    } catch (problem) {
      const passing = problem.kind === "unreachable" || problem.status === 503;
      if (!passing || ++lost >= LOST_TRIES) throw problem;
    }
    await wait(pause, signal);
    pause = Math.min(1.5 * pause, LONGEST_PAUSE_MS);
  }
}

function finished(path, tell, signal) {
  return asked(path, "json", job => job.finished || tell(job.status), signal);
}

// Runs steps on a photo as a job: {image: Blob, report}. `tell(what, share)` hears how far it is. An abort of `signal`
// ends the job at the service too; a job that is done is forgotten there as soon as its result is here.
export async function run(query, photo, swap, tell, signal) {
  const id = await submitted(query, bodyOf(photo, swap), tell, signal);
  const path = `v1/jobs/${id}`;
  const forget = () => fetch(path, { method: "DELETE", headers: keyed(), keepalive: true }).catch(() => {});
  window.addEventListener("pagehide", forget);
  try {
    signal.throwIfAborted();
    const [{ report, problem }] = (await finished(path, tell, signal)).photos;
    if (problem) throw Problem.of(problem);
    if (!report) throw new Problem(409, "job-cancelled", "Somebody ended it at the service.");
    tell("fetching");
    const image = await asked(`${path}/result`, "blob", () => true, signal);
    return { image, report };
  } finally {
    window.removeEventListener("pagehide", forget);
    forget();
  }
}
