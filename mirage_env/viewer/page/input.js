// Input: keys, drags, buttons, dialogs and files become orders of the page.

import { swapOnClick } from "./panes.js";
import { Connection, bytesArray } from "./wire.js";

const $ = (id) => document.getElementById(id);
const KEYS = { w: "forward", s: "back", a: "left", d: "right", arrowup: "look_up", arrowdown: "look_down",
  arrowleft: "turn_left", arrowright: "turn_right", q: "turn_left", e: "turn_right", " ": "stay" };

/** Give every dialog the same form: its title, what it holds, and a button that does nothing. */
for (const dialog of document.querySelectorAll("dialog")) {
  const form = Object.assign(document.createElement("form"), { method: "dialog" });
  form.append(Object.assign(document.createElement("h2"), { textContent: dialog.dataset.title }), ...dialog.childNodes);
  if (dialog.dataset.no) form.append(Object.assign(document.createElement("button"), { value: "no", textContent: dialog.dataset.no }));
  dialog.replaceChildren(form);
}

/** A connection; a token that the server asks for is in the address, was given before, or is asked for. */
export async function connected(closed) {
  for (let token = decodeURIComponent(location.hash.slice(1)) || sessionStorage.getItem("token") || ""; ; ) {
    const connection = new Connection(token, closed);
    try {
      await connection.ready;
      sessionStorage.setItem("token", token);
      history.replaceState(null, "", location.pathname);  // and not left in it
      return connection;
    } catch {
      $("token-says").textContent = token ? "The server knows no such token." : "This server asks for a token. It is in the address that mirage view prints, or in the file given to mirage serve.";
      $("token-dialog").showModal();
      await new Promise((resolve) => $("token-dialog").addEventListener("close", resolve, { once: true }));
      token = $("token").value;
    }
  }
}

/** Listen to keys, drags, buttons, dialogs and dropped files, for a page. */
export function listen(page) {
  const orders = { z: () => page.undo(), f: () => page.fork(), x: () => page.driver.stop(), p: () => page.play(), r: () => record(page) };
  addEventListener("keydown", (event) => {
    if (event.target.closest("dialog, input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === " " && event.target.closest("button")) return;  // presses it
    if (KEYS[key]) event.preventDefault();
    if (event.repeat || !page.world) return;
    if (KEYS[key]) page.begin(KEYS[key]);
    else orders[key]?.();
  });
  addEventListener("keyup", (event) => { const motion = KEYS[event.key.toLowerCase()]; if (motion) page.driver.release(motion); });
  addEventListener("blur", () => page.driver.stop());
  for (const button of document.querySelectorAll("[data-move]")) {
    const motion = button.dataset.move, end = () => { button.classList.remove("held"); page.driver.release(motion); };
    button.onpointerdown = (event) => { button.setPointerCapture(event.pointerId); button.classList.add("held"); page.begin(motion); };
    [button.onpointerup, button.onpointercancel, button.oncontextmenu] = [end, end, (event) => event.preventDefault()];
  }
  for (const button of document.querySelectorAll("[data-dialog]")) button.onclick = () => openDialog(page, button.dataset.dialog);
  Object.entries({ undo: "z", fork: "f", stop: "x", play: "p", record: "r" }).forEach(([id, key]) => ($(id).onclick = orders[key]));
  $("worlds-button").onclick = () => document.body.classList.toggle("worlds");
  addEventListener("click", (event) => { if (event.detail) event.target.closest?.("button")?.blur(); });  // keys are for driving
  swapOnClick($("stage"));
  listenToDrags(page);
  listenToDialogs(page);
  listenToFiles(page);
  $("colouring").onchange = () => page.memory.paint($("colouring").value);
  $("eyes").onclick = () => page.memory.see(true);
  $("overview").onclick = () => page.memory.see(false);
}

function listenToDrags(page) {
  const dragged = (canvas, move, click = () => {}) => {
    let last = null, way = 0;
    canvas.onpointerdown = (event) => {
      if (!canvas.closest("#stage")) return;
      canvas.setPointerCapture(event.pointerId);
      [last, way] = [event, 0];
    };
    canvas.onpointermove = (event) => {
      if (!last) return;
      const [dx, dy] = [event.clientX - last.clientX, event.clientY - last.clientY];
      way += Math.abs(dx) + Math.abs(dy);
      move(dx / canvas.clientWidth, dy / canvas.clientHeight);
      last = event;
    };
    canvas.onpointerup = (event) => { if (last && way < 4) click(event.offsetX, event.offsetY); last = null; };
    canvas.onpointercancel = () => (last = null);
  };
  dragged($("imagined"), (dx, dy) => {
    page.film = null;
    page.pressed ||= performance.now();
    page.driver.drag(-dx / page.lens[0], dy / page.lens[1]);
  });
  dragged($("memory"), (dx, dy) => page.memory.turn(-3 * dx, 3 * dy), (x, y) => {
    const pose = page.memory.cameraAt(x, y);
    if (pose) page.film = null;
    try { if (pose) page.driver.goTo(pose); } catch (error) { page.fail(error); }
  });
  $("memory").onwheel = (event) => { event.preventDefault(); page.memory.zoom(Math.exp(event.deltaY / 600)); };
}

/** Show a dialog with what the page knows now. */
export function openDialog(page, id) {
  if (id === "open-dialog") $("saved").replaceChildren(...(page.saved ?? []).map((name) => new Option(name)));
  $("open-saved").disabled = !page.saved?.length;
  if (id === "save-dialog") $("save-name").value = page.name || "my world";
  $(id).showModal();
}

function listenToDialogs(page) {
  $("preset").replaceChildren(...page.about.paths.map((name) => new Option(name.replaceAll("_", " "), name)));
  $("preset").value = "orbit";
  const chosen = (id, acts) => $(id).addEventListener("close", () => { acts[$(id).returnValue]?.(); $(id).returnValue = ""; });
  chosen("open-dialog", { room: () => page.open({ room: Number($("seed").value) }), saved: () => page.open({ cache: $("saved").value }) });
  chosen("save-dialog", { save: () => page.save($("save-name").value.trim()) });
  chosen("paths-dialog", { walk: () => page.preset($("preset").value, Number($("chunks").value)) });
  chosen("name-dialog", { rename: () => page.rename($("name-dialog").dataset.world, $("new-name").value.trim()) });
  chosen("film-dialog", { no: () => page.recorder.drop() });
  for (const to of ["mp4", "gif"]) $(`film-${to}`).onclick = () => download(page, to);
  const strides = { metres: (x) => ({ metres: x }), degrees: (x) => ({ radians: (x * Math.PI) / 180 }) };
  for (const [id, stride] of Object.entries(strides)) {
    $(id).oninput = () => {
      Object.assign(page.driver.stride, stride(Number($(id).value)));
      $(id).previousElementSibling.textContent = `${$(id).value} ${id} a key`;
    };
    $(id).oninput();
  }
}

function listenToFiles(page) {
  const photo = async (file) => {
    if (!file) return;
    const name = file.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_ ().'-]+/gu, " ").replace(/^[^\p{L}\p{N}_]+/u, "").slice(0, 40).trim();
    await page.open(name ? { name } : {}, { photo: bytesArray(new Uint8Array(await file.arrayBuffer())) });
  };
  $("photo").onchange = () => { $("open-dialog").close("no"); photo($("photo").files[0]); $("photo").value = ""; };
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    photo(event.dataTransfer.files[0]);
  });
}

async function record(page) {
  if (page.recorder.on) await page.walking;  // its frames are shown before they are here
  const on = page.recorder.toggle(), { length } = page.recorder.frames;
  $("record").classList.toggle("on", on);
  $("record").textContent = on ? "stop rec." : "record";
  if (on) return;
  $("film-length").textContent = filmLength(page);
  if (length) $("film-dialog").showModal();
  else page.fail(new Error("nothing was recorded; press record, walk, and press it again"));
}

const filmLength = ({ recorder: { frames }, about }) => `${frames.length} frames, ${(frames.length / about.frames_per_second).toFixed(1)} s`;

async function download(page, to) {
  $("film-length").textContent = `making the ${to} ...`;
  try { await page.recorder.download(to, page.about.frames_per_second); }
  catch (error) { $("film-dialog").close(); page.fail(error); }
  $("film-length").textContent = filmLength(page);
}
