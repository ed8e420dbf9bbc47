// The page: a photo comes in, steps are chosen, the service works, the result is compared and saved.

import { takePhoto } from "./camera.js";
import { hideResult, lookAt, showPhoto, showResult } from "./compare.js";
import { $, make } from "./dom.js";
import { showModels, showReport, summary } from "./report.js";
import { offers, Problem, run, useKey } from "./service.js";
import { build, choice } from "./steps.js";

const HEADINGS = {
  unreachable: "The service cannot be reached",
  overloaded: "The service is busy",
  "image-too-large": "The photo is too large",
  "empty-image": "The file is empty",
  "not-an-image": "This file is no photo that the service can read",
  "unsupported-media-type": "This file is no photo that the service can read",
  "corrupt-image": "The photo is damaged",
  "slow-upload": "The photo took too long to arrive",
  timeout: "The work took too long",
  "no-donor": "The other photo shows no face",
  "no-job": "The service no longer knows this photo",
  "no-room": "The service has no memory left",
  internal: "The service failed",
};
const TITLES = { empty: "Photo", ready: "Photo", working: "Working", done: "Result" };

let photo = null; // the File
let urls = []; // of the photo and of what was made of it
let running = null; // AbortController of the work
let state = "empty";

const url = blob => {
  urls.push(URL.createObjectURL(blob));
  return urls.at(-1);
};
const size = ({ size: bytes }) => (bytes < 1e6 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);
const say = text => { $("status").textContent = text; };

// What is seen in which state; the focus stays where it is unless its element goes.
function become(next) {
  state = next;
  $("stage-title").textContent = TITLES[state];
  $("drop").hidden = state !== "empty";
  $("compare").hidden = state === "empty";
  $("progress").hidden = state !== "working";
  $("actions").hidden = state === "empty" || state === "working";
  for (const id of ["save", "report"]) $(id).hidden = state !== "done";
  $("whole").hidden = true;
  $("form").toggleAttribute("inert", state === "working");
  if (state !== "done") hideResult();
}

function fail(problem) {
  if (!(problem instanceof Problem)) { // our own fault: the browser's console says where
    $("error").replaceChildren(make("strong", {}, "That did not work"), make("p", {}, "The page failed. Try again, or load it anew."));
    throw problem;
  }
  if (problem.status === 401) return askForKey(problem);
  const heading = HEADINGS[problem.kind] || "That did not work";
  const detail = problem.detail.replace(/\d{6,} bytes/, bytes => size({ size: parseInt(bytes) }));
  $("error").replaceChildren(make("strong", {}, heading), make("p", {}, detail));
  $("error").scrollIntoView({ block: "nearest" });
}

function askForKey(problem) {
  $("ask").hidden = false;
  if ($("key").value) $("ask-why").textContent = problem.detail;
  $("key").focus();
}

async function load() {
  $("error").replaceChildren();
  try {
    const offered = await offers();
    $("ask").hidden = true;
    if (!$("bench").hidden) return $("start").focus(); // another key, for the photo that is there
    build(offered);
    showModels(offered.models);
    $("bench").hidden = false;
  } catch (problem) {
    fail(problem);
    if (problem.status !== 401) $("error").append(make("button", { onclick: load }, "Try again"));
  }
}

async function take(files) {
  if (!files.length || state === "working" || $("bench").hidden) return;
  photo = files[0];
  urls.forEach(URL.revokeObjectURL);
  urls = [];
  $("error").replaceChildren();
  become("ready");
  let caption = `${photo.name}, ${size(photo)}`;
  try {
    await showPhoto(url(photo));
    caption = `${photo.name}, ${$("before").naturalWidth} × ${$("before").naturalHeight} pixels, ${size(photo)}`;
  } catch {
    caption += ". This browser cannot show it; the service may be able to read it.";
  }
  $("caption").textContent = caption;
  say(`Photo chosen: ${caption}.${files.length > 1 ? " One photo at a time: the first of them." : ""}`);
  $("stage-title").focus({ preventScroll: true });
}

function tell(what, share) {
  const words = {
    sending: "Sending the photo",
    queued: "Waiting for its turn",
    running: "Working on it",
    busy: `The service is busy; trying again in ${share} s`,
    fetching: "Fetching the result",
  }[what];
  const known = what === "sending" && share < 1;
  $("bar").classList.toggle("unknown", !known);
  if (known) $("bar").setAttribute("aria-valuenow", Math.round(100 * share));
  else $("bar").removeAttribute("aria-valuenow");
  $("bar").style.setProperty("--share", known ? share : 1);
  if ($("doing").textContent === words) return;
  $("doing").textContent = words;
  say(words);
}

async function start(event) {
  event.preventDefault();
  if (!photo) {
    $("missing").textContent = "Choose a photo first.";
    $("choose").focus();
    return;
  }
  const asked = choice();
  if (!asked) return;
  $("error").replaceChildren();
  become("working");
  const mine = (running = new AbortController());
  const began = performance.now();
  const clock = setInterval(() => {
    $("elapsed").textContent = `${Math.floor((performance.now() - began) / 1000)} s`;
  }, 200);
  $("elapsed").textContent = "";
  tell("sending", 0);
  $("cancel").focus({ preventScroll: true });
  $("stage-title").scrollIntoView({ block: "nearest" });
  try {
    await finish(asked, await run(asked.query, photo, asked.swap, tell, mine.signal));
  } catch (problem) {
    become("ready");
    $("start").focus({ preventScroll: true });
    if (mine.signal.aborted) say("Cancelled.");
    else {
      say("");
      fail(problem);
    }
  } finally {
    clearInterval(clock);
  }
}

async function finish({ steps, query }, { image, report }) {
  const result = url(image);
  const name = `${photo.name.replace(/\.[^.]*$/, "") || "photo"}-${steps.join("-")}`;
  const ending = query.get("format") === "jpeg" ? "jpg" : query.get("format");
  await showResult(result);
  become("done");
  Object.assign($("save"), { href: result, download: `${name}.${ending}` });
  const json = new Blob([JSON.stringify(report, null, 2)], { type: "application/json" });
  Object.assign($("save-report"), { href: url(json), download: `${name}.json` });
  $("caption").textContent = `${$("save").download}, ${report.width} × ${report.height} pixels, ${size(image)}`;
  showReport(report, look);
  say(`Done. ${summary(report)}`);
  $("stage-title").focus({ preventScroll: true });
  $("stage-title").scrollIntoView({ block: "nearest" });
}

function look(box) {
  lookAt(box);
  $("whole").hidden = !box;
  if (box) {
    $("slider").focus({ preventScroll: true });
    $("stage-title").scrollIntoView({ block: "nearest" });
  } else $("slider").focus();
}

function another() {
  become("empty");
  photo = null;
  say("");
  $("choose").focus();
}

$("choose").onclick = () => $("file").click();
for (const field of ["file", "capture"]) {
  $(field).onchange = () => {
    take([...$(field).files]);
    $(field).value = ""; // so that the same file can be chosen again
  };
}
$("take").onclick = () => takePhoto(file => take([file]));
$("another").onclick = another;
$("whole").onclick = () => look(null);
$("cancel").onclick = () => running.abort();
$("form").onsubmit = start;
$("ask").onsubmit = event => {
  event.preventDefault();
  useKey($("key").value.trim());
  load();
};
document.addEventListener("paste", event => {
  const files = [...event.clipboardData.files];
  if (files.length) take(files);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, event => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.toggle("over", name === "dragover");
    if (name === "drop") take([...event.dataTransfer.files]);
  });
}
load();
