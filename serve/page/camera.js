// A photo from the camera of this device.

import { $ } from "./dom.js";

const dialog = $("camera"), video = $("video"), says = $("camera-says"), snap = $("snap");
let stream = null, opened = 0; // how many times: an answer to an earlier question comes too late

const WHY_NOT = {
  NotAllowedError: "The camera was not allowed. Allow it in the browser's settings of this page, or choose a file.",
  NotFoundError: "No camera was found. Choose a file instead.",
  NotReadableError: "The camera is in use by another program. Close that, or choose a file.",
};

// Phones have a camera program of their own, which the file field opens; elsewhere the camera is shown in a dialog.
// `taken(file)` gets the photo.
export function takePhoto(taken) {
  if (matchMedia("(pointer: coarse)").matches) {
    $("capture").click();
    return;
  }
  says.textContent = "Waiting for the camera ...";
  snap.disabled = true;
  dialog.showModal();
  if (!navigator.mediaDevices?.getUserMedia) {
    says.textContent =
      "The browser gives this page no camera: it does so only over https, or on the computer that the service runs on. Choose a file instead.";
    return;
  }
  snap.onclick = () => photograph(taken);
  open();
}

async function open() {
  const mine = ++opened;
  try {
    const given = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1920 }, facingMode: "user" } });
    if (!dialog.open || mine !== opened) return stop(given);
    video.srcObject = stream = given;
    await video.play();
    says.textContent = "The picture stays on this page until you choose Apply.";
    snap.disabled = false;
    snap.focus();
  } catch (error) {
    says.textContent = WHY_NOT[error.name] || "The camera cannot be used. Choose a file instead.";
  }
}

function photograph(taken) {
  snap.disabled = true;
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob(blob => {
    dialog.close();
    taken(new File([blob], "camera.jpg", { type: "image/jpeg" }));
  }, "image/jpeg", 0.95);
}

function stop(given) {
  for (const track of given?.getTracks() || []) track.stop();
}

function release() {
  stop(stream);
  stream = video.srcObject = null;
}

$("camera-close").onclick = () => dialog.close();
dialog.addEventListener("close", release);
