// Small helpers for elements.

export const $ = id => document.getElementById(id);

// make("p", { className: "hint" }, "text", element): an element with properties and children; null children are left out.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter(child => child !== null));
  return element;
}

export function option(type, name, value, text, checked = false) {
  return make("label", { className: "chip" }, make("input", { type, name, value, checked }), make("span", {}, text));
}

// "Mouth_Slightly_Open" -> "Mouth slightly open"
export function plain(name) {
  const words = name.replaceAll("_", " ").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}
