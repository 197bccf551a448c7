// The page: shows a world of the server, drives it, and keeps the panes, the film strip and the tree up to date.

import { Chunks, countOf, framesOf, pictureOf } from "./chunks.js";
import { Driver } from "./driver.js";
import { connected, listen, openDialog } from "./input.js";
import { MemoryView } from "./memory.js";
import { bitmap, paint, paintDepth, paintUnknown } from "./panes.js";
import { fromRows, toRows, upOf } from "./poses.js";
import { Recorder } from "./recorder.js";
import { Tree } from "./tree.js";
import { Warp } from "./warp.js";

const $ = (id) => document.getElementById(id);
const EVERY = 4;  // of the rows and columns of depth
const WANT = { frames: "none", depth: true, depth_every: EVERY, observed: true, readout: true };
const POLL = 2000;

class Page {
  constructor() {
    this.warp = new Warp($("imagined"));
    this.memory = new MemoryView($("memory"));
    this.recorder = new Recorder((verb, body, arrays) => this.call(verb, body, arrays));
    this.tree = new Tree($("tree"), { go: (id) => this.enter(id), rename: (world) => this.askName(world), close: (id) => this.closeWorld(id) });
    this.chunks = new Chunks();
    this.film = null;  // what is played back, in the place of the drive
    this.world = null;
    this.busy = 0;  // ways to other worlds or moments
  }

  async start() {
    this.connection = await connected(() => this.lost());
    const { header } = await this.call("describe");
    this.about = header;
    document.documentElement.style.setProperty("--aspect", header.image_size[1] / header.image_size[0]);
    this.driver = new Driver({ frames: (chunks) => this.framesIn(chunks, this.number), rate: header.frames_per_second,
      walk: (way) => this.walk(way), failed: (error) => this.fail(error) });
    listen(this);
    await this.list();
    if (this.worlds.length) await this.enter(this.worlds[0].world);
    else openDialog(this, "open-dialog");
    setInterval(() => this.list().catch(() => {}), POLL);
    requestAnimationFrame((now) => this.draw(now, now));
  }

  /** Frames of so many chunks that follow `after` others; a first one may be longer. */
  framesIn(chunks, after) { return chunks * this.about.frames + (chunks && !after ? this.about.first_frames - this.about.frames : 0); }

  call(verb, body = {}, arrays = {}) { return this.connection.call(verb, body, arrays); }

  // Worlds -----------------------------------------------------------------------------------------------------------

  async list() {
    const { worlds, saved } = (await this.call("list")).header;
    [this.worlds, this.saved] = [worlds, saved];
    this.tree.show(worlds, this.world);
    this.say(this.saying);
    const mine = worlds.find(({ world }) => world === this.world);
    // Where it is elsewhere twice, somebody else has walked on in this world; once may be an answer that is late.
    const elsewhere = mine && this.driver.idle && !this.busy && mine.moment !== this.moment ? mine.moment : null;
    const again = elsewhere !== null && elsewhere === this.elsewhere;
    this.elsewhere = elsewhere;
    if (again) await this.enter(this.world);
  }

  /** Go to another world or moment. Keys that are pressed on the way wait until it is there. */
  async go(act) {
    this.busy++;
    try { await act(); } catch (error) { this.fail(error); } finally { this.busy--; }
  }

  /** Go on in a world: where it is now. */
  enter(world) {
    return this.go(async () => {
      await this.arrive(await this.call("look", { world, want: { ...WANT, frames: "jpeg" } }));
      await this.list();
    });
  }

  /** Stand where an answer says that a world is. */
  async arrive({ header, arrays }) {
    const same = this.world === header.world;
    [this.world, this.moment, this.number, this.K] = [header.world, header.moment, header.chunk, header.K];
    const [h, w] = this.about.image_size;
    this.lens = [header.K[0][0] / w, header.K[1][1] / h, header.K[0][2] / w, header.K[1][2] / h];
    const chunk = this.chunks.get(header.moment) ?? (await this.chunks.keep(header, arrays));
    if (this.world !== header.world || this.moment !== header.moment) return;
    const frame = chunk.frames[chunk.frames.length - 1];
    if (!same || !this.up) this.up = upOf(frame.pose);
    this.film = null;
    this.driver.show(frame, this.up);
    this.showChunk(chunk, header);
    await this.remember();
  }

  open(body, arrays) {
    this.say("opening ...");
    return this.go(async () => {
      this.up = null;
      await this.arrive(await this.call("open", { want: { ...WANT, frames: "jpeg" }, ...body }, arrays));
      await this.list();
    });
  }

  undo() {
    this.driver.stop();
    return this.go(async () => {
      await this.walking;  // what is being made is undone
      await this.arrive(await this.call("undo", { world: this.world, want: { ...WANT, frames: "jpeg" } }));
    });
  }

  fork() {
    return this.go(async () => {
      await this.walking;  // what is being made belongs to both
      const { header } = await this.call("fork", { world: this.world });
      this.world = header.world;
      await this.list();
      this.say(`goes on as ${header.name}; the other one stays as it is`);
    });
  }

  async closeWorld(world) {
    try {
      if (world === this.world) throw new Error("this is the world you are in; go to another one first");
      await this.call("close", { world });
      await this.list();
    } catch (error) { this.fail(error); }
  }

  askName({ world, name }) {
    $("new-name").value = name;
    $("name-dialog").dataset.world = world;
    $("name-dialog").showModal();
  }

  // Chunks -----------------------------------------------------------------------------------------------------------

  /** Walk one chunk: promises of its frames, and of the rest. */
  walk(way) {
    const world = this.world, number = ++this.number, chunk = { frames: [] };
    const preview = this.call("preview", { world, chunk: number }).then(async ({ header, arrays }) => {
      if (!arrays.frames) return [];
      chunk.frames = await framesOf(arrays.frames, header.poses);
      if (world === this.world) this.showStrip(chunk);
      return chunk.frames;
    });
    preview.catch(() => {});
    const done = this.call("walk", { world, poses: way.map(toRows), want: WANT }).then(async ({ header, arrays }) => {
      await preview;
      if (world !== this.world) return;
      this.chunks.complete(chunk, header, arrays);
      this.moment = header.moment;
      this.showChunk(chunk, header);
      this.recorder.add(chunk.frames);
      this.remember();
    });
    this.walking = done.catch(() => { if (world === this.world && this.number >= number) this.number = number - 1; });
    return { preview, done };
  }

  showChunk(chunk, header) {
    this.chunk = chunk;
    const percent = Math.round(100 * header.coverage), kib = Math.round(header.memory_bytes / 1024);
    this.said = `${countOf(header.chunk)}, ${header.memory_points} tokens, ${kib} KiB, ${percent} % known`;
    this.say("");
    this.showStrip(chunk);
    const last = chunk.frames[chunk.frames.length - 1];
    const mine = this.worlds?.find(({ world }) => world === this.world);
    if (mine) [mine.chunk, mine.moment] = [header.chunk, header.moment];
    this.tree.picture(this.world, last.picture);
    if (this.worlds) this.tree.show(this.worlds, this.world);
    this.showPanes(chunk, last);
  }

  /** Depth and truth are a frame's own; what the memory knew is of the last one. */
  async showPanes(chunk, frame) {
    if (frame.depth) paintDepth($("depth"), frame.depth);
    const last = chunk.frames[chunk.frames.length - 1];
    if (chunk.observed) paintUnknown($("unknown"), last.picture, chunk.observed);
    if (chunk.readout) paint($("knew"), (chunk.knew ??= await pictureOf(chunk.readout)));
    const world = this.worlds?.find((one) => one.world === this.world);
    const known = world?.room != null;
    document.querySelector('[data-pane="true"]').classList.toggle("empty", !known);
    if (!known) return;
    const at = this.framesIn(chunk.number, 0) - (chunk.frames.length - 1 - chunk.frames.indexOf(frame));
    frame.truth ??= this.call("true_views", { world: this.world, poses: [toRows(frame.pose)], frame: Math.max(0, at) })
      .then(({ arrays }) => bitmap(arrays.frames.parts[0], arrays.frames.type));
    try { paint($("true"), await frame.truth); } catch { /* a model with a world of its own has none */ }
  }

  showStrip(chunk) {
    this.strip = chunk;
    $("strip").replaceChildren(...chunk.frames.map((frame, i) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      button.title = `frame ${i + 1} of ${chunk.frames.length}`;
      button.append(canvas);
      paint(canvas, frame.picture);
      button.onclick = () => this.still(chunk, i);
      return button;
    }));
  }

  still(chunk, i) {
    this.film = { chunk, place: i, rate: 0 };
    this.showPanes(chunk, chunk.frames[i]);
  }

  play() { if (this.strip) this.film = { chunk: this.strip, place: 0, rate: this.about.frames_per_second }; }

  async remember() {
    if (this.remembering) return void (this.again = true);
    this.remembering = true;
    try {
      const answer = await this.call("tokens", { world: this.world });
      if (answer.header.world === this.world) {
        this.up = upOf(fromRows(answer.header.path[0] ?? toRows(this.driver.end)));
        this.driver.up = this.up;
        this.memory.show(answer, this.lens, this.up);
      }
    } catch (error) { this.fail(error); } finally { this.remembering = false; }
    if (this.again) { this.again = false; this.remember(); }
  }

  // Drawing ----------------------------------------------------------------------------------------------------------

  draw(now, before) {
    const seconds = Math.min(0.1, (now - before) / 1000), live = this.driver.tick(seconds, this.busy > 0);
    const shown = this.film ? this.playback(seconds) : live;
    if (shown.frame) {
      const changed = this.warp.draw(shown.frame, shown.pose, this.lens);
      if (changed && this.pressed) [this.answered, this.pressed] = [performance.now() - this.pressed, 0];
    }
    const share = this.driver.progress(), at = this.strip?.frames.indexOf(shown.frame);
    $("progress").value = share ?? 0;
    if (share !== null) this.say(`imagining ... ${Math.round(100 * share)} %`);
    else if (this.saying.startsWith("imagining")) this.say("");
    [...$("strip").children].forEach((button, i) => button.setAttribute("aria-current", i === at));
    this.memory.draw();
    requestAnimationFrame((next) => this.draw(next, now));
  }

  playback(seconds) {
    const { chunk, rate } = this.film;
    this.film.place += rate * seconds;
    const i = Math.floor(this.film.place), frame = chunk.frames[Math.min(i, chunk.frames.length - 1)];
    if (rate && i >= chunk.frames.length + 4) this.film = null;
    return { frame, pose: frame.pose };
  }

  saying = "";

  get name() { return this.worlds?.find(({ world }) => world === this.world)?.name ?? ""; }

  say(text) {
    this.saying = text;
    $("status").textContent = [this.name, text || this.said].filter(Boolean).join(": ");
  }

  fail(error) {
    $("alert").textContent = error.message;
    $("alert").hidden = false;
    clearTimeout(this.alarm);
    this.alarm = setTimeout(() => ($("alert").hidden = true), 9000);
    this.say("");
  }

  lost() { if (this.about) this.fail(new Error("the server does not answer any more; start it again, then reload this page")); }

  // Orders -----------------------------------------------------------------------------------------------------------

  begin(motion) {
    this.film = null;
    this.pressed ||= performance.now();
    $("alert").hidden = true;
    this.driver.hold(motion);
  }

  async save(name) {
    try {
      const { header } = await this.call("save", { world: this.world, name });
      this.say(`saved as ${header.cache}`);
      await this.list();
    } catch (error) { this.fail(error); }
  }

  async rename(world, name) {
    try { await this.call("rename", { world, name }); await this.list(); this.say(""); } catch (error) { this.fail(error); }
  }

  async preset(path, chunks) {
    this.film = null;
    try { this.driver.follow((await this.call("preset", { world: this.world, path, chunks })).header.poses.map(fromRows)); }
    catch (error) { this.fail(error); }
  }
}

const page = new Page();
window.mirage = page;  // for the tests and benchmarks of the page
page.start().catch((error) => page.fail(error));
