// The report of a photo in plain words.

import { $, make, plain } from "./dom.js";
import { titleOf } from "./steps.js";

const DONE = {
  enhance: "made clearer",
  beautify: "made more attractive",
  facial_hair: "given other facial hair",
  edit_attributes: "attributes edited",
  swap: "swapped",
};
const STAGES = {
  decode: "reading the photo",
  detect: "finding faces",
  identify: "comparing identities",
  detect_swap: "looking for swapped faces",
  parse: "outlining faces",
  fuse: "putting faces back",
  encode: "writing the result",
  sign: "signing it",
  total: "all together",
};
const THUMBNAIL = 64; // px to a side
const AROUND = 0.25; // of a face's box, on every side

const percent = share => `${Math.round(100 * share)} %`;
const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;
const seconds = ms => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

// The first sentence, which is also what a screen reader hears once the result is there.
export function summary(report) {
  const large = report.width !== report.input_width ? ` The photo is now ${report.width} × ${report.height} pixels.` : "";
  const time = ` It took ${seconds(report.timings_ms.total)}.`;
  if (!("detect" in report.models)) return `The photo was worked on as a whole.${large}${time}`;
  const found = report.faces.length;
  if (!found) return `No face was found.${large}${time}`;
  return `${counted(found, "face")} found, ${report.changed || "none"} changed.${large}${time}`;
}

function guardWords({ similarity, kept, steps }) {
  const alike = `similarity to the original ${similarity.toFixed(2)} of 1`;
  if (kept === 0) return `Left as it was: the change showed somebody else (${alike}), and the identity guard took all of it back.`;
  if (kept < 1) return `All of the change would have shown somebody else (${alike}); the identity guard kept ${percent(kept)} of it.`;
  return steps.includes("swap") ? sentence(alike) : `Still the same person (${alike}): all of the change was kept.`;
}

// What became of one face, as sentences.
export function faceWords(face) {
  const words = [];
  if (face.steps.length) words.push(sentence(face.steps.map(step => DONE[step] || plain(step)).join(", then ")));
  for (const { step, reason } of face.skipped) {
    if (face.kept === 0 && reason.startsWith("identity:")) continue; // said below, once
    words.push(sentence(step === "all" ? `Left as it was: ${reason}` : `${titleOf(step)} was left out: ${reason}`));
  }
  if (face.similarity !== null) words.push(guardWords(face));
  if (face.swapped !== null) words.push(`The swap detector says ${percent(face.swapped)} that this face was swapped.`);
  return words;
}

function thumbnail(image, [x0, y0, x1, y1]) {
  const side = Math.max(x1 - x0, y1 - y0) * (1 + 2 * AROUND);
  const canvas = make("canvas", { width: 2 * THUMBNAIL, height: 2 * THUMBNAIL });
  canvas.getContext("2d").drawImage(
    image, (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side, side, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function table(rows) {
  return make("table", {}, make("tbody", {}, ...rows.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
}

// Fills the page's report. `look(box)` shows a face large.
export function showReport(report, look) {
  const faces = report.faces.map((face, index) => {
    const name = `Face ${index + 1}`;
    const button = make("button", { type: "button", className: "face", ariaLabel: `Show ${name.toLowerCase()} large` },
      thumbnail($("after"), face.box));
    button.onclick = () => look(face.box);
    const words = faceWords(face);
    return make("li", {}, button, make("div", {}, make("strong", {}, name), ...words.map(text => make("p", {}, text))));
  });
  const times = Object.entries(report.timings_ms).map(([stage, ms]) => [plain(STAGES[stage] || titleOf(stage)), seconds(ms)]);
  const models = Object.entries(report.models).map(([stage, model]) => [plain(STAGES[stage] || titleOf(stage)), model]);
  $("told").replaceChildren(
    make("p", { className: "lead" }, summary(report)),
    report.notes.length ? make("ul", { className: "notes" }, ...report.notes.map(note => make("li", {}, sentence(note)))) : "",
    faces.length ? make("ol", { className: "faces" }, ...faces) : "",
    report.signer ? make("p", {}, `What was done stands in the picture as content credentials, signed by “${report.signer}”.`) : "",
    make("details", {}, make("summary", {}, "Where the time went, and which models"), make("h3", {}, "Time"), table(times),
      make("h3", {}, "Models"), table(models)));
}

// Fills the list of models and what their terms say.
export function showModels(models) {
  const limited = models.filter(model => !model.commercial_use);
  $("terms").textContent = limited.length
    ? `${limited.length} of the ${models.length} models are for research only: what they make may not be used commercially.`
    : "All models in use may be used commercially.";
  $("model-list").replaceChildren(...models.map(model => make("li", {},
    make("strong", {}, `${model.name}@${model.version}`),
    ` for ${(STAGES[model.use] || titleOf(model.use)).toLowerCase()}. Licence: ${model.licence || "unstated"}. `,
    model.terms || "")));
}
