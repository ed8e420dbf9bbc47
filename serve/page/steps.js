// The form: the steps that the service offers, their order and options, and what is asked for with them.

import { $, make, option, plain } from "./dom.js";

// In the order that they start in: the whole photo first, as the service does anyway; faces are made clear before
// others look at them. Steps that are not known here come last, under their own name.
const KNOWN = {
  upscale: { title: "Enlarge", does: "More pixels, for the whole photo." },
  enhance: { title: "Enhance", does: "Blurred, noisy or compressed faces become clearer." },
  swap: { title: "Swap the face", does: "Shows another person's face." },
  edit_attributes: { title: "Edit attributes", does: "A smile, glasses, hair ... added or taken away. The slowest step: many seconds a face." },
  facial_hair: { title: "Facial hair", does: "Another beard, or none." },
  beautify: { title: "Beautify", does: "More attractive, and still the same person." },
};
const WHOLE_PHOTO = ["upscale"];
const STYLE_AT_FIRST = "full";

export const titleOf = step => KNOWN[step]?.title || plain(step);

const list = $("steps");
let offered = {};

function optionsOf(step) {
  if (step === "upscale") {
    return make("div", { className: "chips", role: "radiogroup", ariaLabel: "How many times larger" },
      ...offered.scales.map((scale, index) => option("radio", "scale", scale, `${scale} times`, index === 0)));
  }
  if (step === "facial_hair") {
    return make("div", { className: "chips", role: "radiogroup", ariaLabel: "Style of facial hair" },
      ...offered.styles.map(style => option("radio", "style", style, plain(style), style === STYLE_AT_FIRST)));
  }
  if (step === "edit_attributes") return make("ul", { className: "attributes" }, ...offered.attributes.map(attribute));
  if (step === "swap") return swapOptions();
  return null;
}

// One attribute, to be added or taken away or neither.
function attribute(name) {
  const boxes = [["add", "Add"], ["remove", "Remove"]].map(([field, text]) => {
    const chip = option("checkbox", field, name, text);
    chip.firstChild.ariaLabel = `${text}: ${plain(name)}`;
    return chip;
  });
  boxes.forEach((chip, index) => chip.addEventListener("change", () => {
    if (chip.firstChild.checked) boxes[1 - index].firstChild.checked = false;
  }));
  return make("li", { className: "line" }, make("span", {}, plain(name)), make("span", { className: "chips" }, ...boxes));
}

function swapOptions() {
  return make("div", { className: "stack" },
    make("label", { htmlFor: "donor" }, "Photo of the person whose face is shown"),
    make("input", { id: "donor", type: "file", accept: $("file").accept }),
    make("label", { className: "check" }, make("input", { id: "consent", type: "checkbox" }),
      make("span", {}, "The people in both photos agreed to this.")),
    make("p", { className: "hint" }, "Choose “The largest” below to change one face only. Each swap leaves a line in the service's log, without the photos."));
}

function card(step) {
  const known = KNOWN[step] || { title: plain(step), does: "" };
  const box = make("input", { type: "checkbox", name: "step", value: step });
  const options = optionsOf(step);
  const order = make("span", { className: "order", hidden: true },
    ...[["up", "↑", "earlier"], ["down", "↓", "later"]].map(([way, sign, words]) =>
      make("button", { type: "button", className: `small ${way}`, ariaLabel: `${known.title}: ${words}` }, sign)));
  const item = make("li", { className: "step" },
    make("div", { className: "head" },
      make("label", { className: "check grow" }, box,
        make("span", {}, make("strong", {}, known.title), known.does ? make("small", {}, known.does) : null)),
      order),
    options && make("div", { className: "options", hidden: true }, options));
  item.dataset.step = step;
  order.querySelector(".up").onclick = event => move(item, -1, event.currentTarget);
  order.querySelector(".down").onclick = event => move(item, 1, event.currentTarget);
  return item;
}

const items = () => [...list.children];
const boxOf = item => item.querySelector("input[name=step]");
const movable = () => items().filter(item => boxOf(item).checked && !WHOLE_PHOTO.includes(item.dataset.step));

// Past the next chosen step that is in that direction; the button keeps the focus.
function move(item, way, button) {
  const among = movable(), other = among[among.indexOf(item) + way];
  if (!other) return;
  if (way < 0) other.before(item); else other.after(item);
  button.focus();
  $("status").textContent = `Order: ${chosen().map(titleOf).join(", ")}.`;
}

const chosen = () => items().filter(item => boxOf(item).checked).map(item => item.dataset.step);

function changed() {
  const several = movable().length > 1;
  for (const item of items()) {
    const on = boxOf(item).checked;
    item.classList.toggle("on", on);
    item.querySelector(".options")?.toggleAttribute("hidden", !on);
    item.querySelector(".order").hidden = !(several && movable().includes(item));
  }
  $("for-faces").hidden = chosen().every(step => WHOLE_PHOTO.includes(step));
  $("quality-row").hidden = $("form").elements.format.value === "png";
  $("strength-is").textContent = `${Math.round(100 * $("strength").value)} %`;
  $("quality-is").textContent = $("quality").value;
  $("missing").textContent = "";
}

// Builds the form of what `offers` (see service.js) says.
export function build(offers) {
  offered = offers;
  const order = Object.keys(KNOWN);
  const place = step => (order.includes(step) ? order.indexOf(step) : order.length);
  list.replaceChildren(...[...offers.steps].sort((one, other) => place(one) - place(other)).map(card));
  $("formats").replaceChildren(...offers.formats.map((format, index) =>
    option("radio", "format", format, format === "webp" ? "WebP" : format.toUpperCase(), index === 0)));
  const first = items().find(item => item.dataset.step === "enhance") || items()[0];
  boxOf(first).checked = true;
  changed();
}

$("form").addEventListener("input", changed);

const checked = name => [...$("form").querySelectorAll(`input[name=${name}]:checked`)].map(input => input.value);

// What is asked for: {steps, query, swap}; null where something is missing, which is then said beside the button.
export function choice() {
  const steps = chosen(), query = new URLSearchParams({ steps: steps.join(",") });
  const lacks = (text, where) => {
    $("missing").textContent = text;
    where.focus();
    return null;
  };
  if (!steps.length) return lacks("Choose at least one step.", boxOf(items()[0]));
  if (steps.some(step => !WHOLE_PHOTO.includes(step))) {
    query.set("strength", $("strength").value);
    query.set("faces", checked("faces")[0]);
  }
  if (steps.includes("upscale")) query.set("scale", checked("scale")[0]);
  if (steps.includes("facial_hair")) query.set("style", checked("style")[0]);
  if (steps.includes("edit_attributes")) {
    for (const field of ["add", "remove"]) if (checked(field).length) query.set(field, checked(field).join(","));
    if (!query.has("add") && !query.has("remove")) {
      return lacks("Edit attributes: choose what is added or taken away.", list.querySelector("input[name=add]"));
    }
  }
  let swap = null;
  if (steps.includes("swap")) {
    swap = { donor: $("donor").files[0], consent: $("consent").checked };
    if (!swap.donor) return lacks("Swap the face: choose a photo of the other person.", $("donor"));
    if (!swap.consent) return lacks("Swap the face: this is done only where the people in both photos agreed.", $("consent"));
  }
  query.set("format", checked("format")[0]);
  if (query.get("format") !== "png") query.set("quality", $("quality").value);
  return { steps, query, swap };
}
