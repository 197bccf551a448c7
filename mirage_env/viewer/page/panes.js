// The panes: one is large, and the others change places with it when they are clicked; and pictures drawn in them.

const UNKNOWN = [255, 150, 40];

/** Let a click on a small pane make it the large one; `swapped` is called with its name. */
export function swapOnClick(stage, swapped = () => {}) {
  document.addEventListener("click", (event) => {
    const pane = event.target.closest?.(".panes .pane");
    if (pane) swap(stage, pane), swapped(pane.dataset.pane);
  });
}

export function swap(stage, pane) {
  const large = stage.querySelector(".pane"), mark = document.createComment("");
  pane.replaceWith(mark);
  stage.prepend(pane);
  mark.replaceWith(large);
}

/** An encoded picture as a bitmap. */
export const bitmap = (part, type) => createImageBitmap(new Blob([part], { type }));

/** Draw a bitmap so that it fills a canvas of its own size. */
export function paint(canvas, picture) {
  [canvas.width, canvas.height] = [picture.width, picture.height];
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

/** Draw metres: near is light, far is dark, on a scale of logarithms. */
export function paintDepth(canvas, { data, size: [h, w] }) {
  const image = new ImageData(w, h);
  data.forEach((z, i) => {
    const share = z > 0 && isFinite(z) ? Math.max(0, Math.min(1, Math.log(z / 0.4) / Math.log(20 / 0.4))) : 1;
    image.data.set([...heat(1 - share), 255], 4 * i);
  });
  [canvas.width, canvas.height] = [w, h];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Draw a frame, orange where the memory had nothing to say. */
export function paintUnknown(canvas, picture, { data, shape: [h, w] }) {
  paint(canvas, picture);
  const pen = canvas.getContext("2d"), mask = new OffscreenCanvas(w, h), image = new ImageData(w, h);
  data.forEach((seen, i) => image.data.set([...UNKNOWN, seen > 0 ? 0 : 130], 4 * i));
  mask.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(mask, 0, 0, picture.width, picture.height);
}

/** A ramp from dark violet over red to light yellow. */
function heat(x) {
  const stops = [[20, 12, 50], [110, 30, 110], [210, 70, 70], [250, 160, 60], [252, 250, 190]], at = x * 4;
  const i = Math.min(3, Math.floor(at)), part = at - i;
  return stops[i].map((low, k) => low + part * (stops[i + 1][k] - low));
}
