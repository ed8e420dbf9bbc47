// The photo before and after, on top of each other, with a divider that mouse, touch and keyboard move.

import { $ } from "./dom.js";

const frame = $("frame"), slider = $("slider");

function moved() {
  frame.style.setProperty("--at", `${slider.value}%`);
  slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
}

function follow(event) {
  const { left, width } = frame.getBoundingClientRect();
  slider.value = Math.round((100 * (event.clientX - left)) / width);
  moved();
}

slider.addEventListener("input", moved);
// The slider takes the keys; the whole picture is what pointers drag, as a native slider jumps on some phones only.
frame.addEventListener("pointerdown", event => {
  if (slider.hidden || event.button) return;
  event.preventDefault();
  slider.focus({ preventScroll: true });
  frame.setPointerCapture(event.pointerId);
  follow(event);
});
frame.addEventListener("pointermove", event => {
  if (frame.hasPointerCapture(event.pointerId)) follow(event);
});

function sized(width, height) {
  frame.style.setProperty("--ratio", width / height);
  frame.style.setProperty("--width", `${width}px`);
}

async function shown(image, url) {
  image.src = url;
  await image.decode();
}

// The photo alone, upright as the browser shows it. Rejects where the browser cannot show it.
export async function showPhoto(url) {
  hideResult();
  frame.hidden = true; // until it is seen that the browser reads it
  await shown($("before"), url);
  frame.hidden = false;
  sized($("before").naturalWidth, $("before").naturalHeight);
}

// The result over the photo; it may have more pixels than that, and is shown as large.
export async function showResult(url) {
  await shown($("after"), url);
  sized($("after").naturalWidth, $("after").naturalHeight);
  frame.hidden = false;
  frame.classList.add("both");
  slider.hidden = false;
  slider.value = 50;
  moved();
}

export function hideResult() {
  frame.classList.remove("both");
  slider.hidden = true;
  $("after").removeAttribute("src");
  lookAt(null);
}

// Shows `box`, [x0, y0, x1, y1] in pixels of the result, large; null: the whole photo.
export function lookAt(box) {
  let zoom = 1, x = 0, y = 0;
  if (box) {
    const { naturalWidth: width, naturalHeight: height } = $("after");
    const [x0, y0, x1, y1] = [box[0] / width, box[1] / height, box[2] / width, box[3] / height];
    zoom = Math.min(Math.max(0.85 / Math.max(x1 - x0, y1 - y0), 1), 8);
    // Where the middle of the face becomes the middle of the frame, but no edge of the photo comes inside it.
    const edge = middle => Math.min(Math.max(0.5 - zoom * middle, 1 - zoom), 0);
    x = 100 * edge((x0 + x1) / 2);
    y = 100 * edge((y0 + y1) / 2);
  }
  frame.style.setProperty("--look", `translate(${x}%, ${y}%) scale(${zoom})`);
}
