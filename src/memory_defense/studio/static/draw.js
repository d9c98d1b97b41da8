// A small drawing area for pointer and keyboard.

import { byId } from "./dom.js";

const STEP = 10;

export function startDrawing(finished) {
  const canvas = byId("canvas");
  const context = canvas.getContext("2d");
  let last = null;
  let cursor = { x: canvas.width / 2, y: canvas.height / 2 };
  let kept = null;

  const clear = () => {
    context.fillStyle = "#000000";
    context.fillRect(0, 0, canvas.width, canvas.height);
  };
  const hand = () => canvas.toBlob((blob) => finished(blob), "image/png");
  const stroke = (from, to) => {
    context.strokeStyle = byId("colour").value;
    context.lineWidth = Number(byId("brush").value);
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  };
  // The keyboard's cross is drawn over the picture and taken off again before anything else happens.
  const hide = () => {
    if (kept) context.putImageData(kept, 0, 0);
    kept = null;
  };
  const show = () => {
    hide();
    kept = context.getImageData(0, 0, canvas.width, canvas.height);
    context.strokeStyle = "#ff8c1a";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(cursor.x, cursor.y, Number(byId("brush").value) / 2, 0, 7);
    context.stroke();
  };

  canvas.addEventListener("pointerdown", (event) => {
    hide();
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const now = place(event);
    stroke(last, now);
    last = now;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (last) hand();
      last = null;
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const far = event.shiftKey ? 4 * STEP : STEP;
    const moves = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
    if (!(event.key in moves) && event.key !== " " && event.key !== "Delete") return;
    event.preventDefault();
    hide();
    if (event.key === "Delete") clear();
    else if (event.key === " ") stroke(cursor, cursor);
    else {
      const [x, y] = moves[event.key];
      cursor = {
        x: Math.min(Math.max(cursor.x + x, 0), canvas.width),
        y: Math.min(Math.max(cursor.y + y, 0), canvas.height),
      };
    }
    if (event.key === " " || event.key === "Delete") hand();
    show();
  });
  canvas.addEventListener("blur", hide);
  canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && show());
  byId("clear").addEventListener("click", () => {
    hide();
    clear();
    hand();
  });
  clear();
}
