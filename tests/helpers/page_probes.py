"""What a browser test asks of the viewer's page: scripts that run in it."""

OFF_SCREEN = """
() => [...document.querySelectorAll("button, select, input, canvas, .pane, #status")].filter((one) => {
  const { left, top, right, bottom, width } = one.getBoundingClientRect();
  const shown = width > 0 && getComputedStyle(one).visibility !== "hidden" && !one.closest("#tree");
  return shown && (left < 0 || top < 0 || right > innerWidth + 0.5 || bottom > innerHeight + 0.5);
}).map((one) => one.id || one.outerHTML)
"""
MISPAINTED = """
() => {
  const { observed: { data, shape: [h, w] }, frames } = mirage.chunk, { picture } = frames.at(-1);
  const plain = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
  plain.drawImage(picture, 0, 0);
  const drawn = document.querySelector("#unknown").getContext("2d");
  const place = (n, count, size) => Math.floor(((n + 0.5) / count) * size);
  const differs = (i) => {
    const at = [place(i % w, w, picture.width), place(Math.floor(i / w), h, picture.height), 1, 1];
    return plain.getImageData(...at).data.join() !== drawn.getImageData(...at).data.join();
  };
  return [...data.keys()].filter((i) => (data[i] > 0) === differs(i));
}
"""
"""Cells that are orange though the memory knew them, or are not though it did not."""
NEAR_AND_FAR = """
() => {
  const { data, size: [, w] } = mirage.chunk.frames.at(-1).depth;
  const pen = document.querySelector("#depth").getContext("2d");
  const rgb = (i) => [...pen.getImageData(i % w, Math.floor(i / w), 1, 1).data.slice(0, 3)];
  return [Math.min(...data), Math.max(...data)].map((z) => rgb(data.indexOf(z)).reduce((sum, c) => sum + c));
}
"""
"""How light the nearest and the farthest pixel of depth are drawn."""
OLDER_CAMERA = """
() => {
  const { clientWidth: w, clientHeight: h } = document.querySelector("#memory");
  for (let y = 2; y < h; y += 8) for (let x = 2; x < w; x += 8) {
    const pose = mirage.memory.cameraAt(x, y);
    if (pose) return [x, y, pose.t];
  }
}
"""
"""Where in the memory an older camera is drawn, and its position."""
DROP = """
(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "photo.png"));
  window.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}
"""
