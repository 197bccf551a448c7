// Motion: keys and drags become chunks, and the picture follows them at once.
//
// The track is where the camera was and will be, one entry per frame. Entries of a chunk that is being made have a pose
// and no frame yet; until they do, the newest frame is warped to them. No more than one chunk is ever asked for ahead.

import * as poses from "./poses.js";

const KEPT = 40;  // entries of the track that stay behind
const HASTE = 2;  // frames that wait are played so many times as fast as the model's rate
const TIRED = 0.65;  // share of a chunk that a warp covers while its frames are not there
const LEAST_LOOK = 0.02;  // radians of a drag that are worth a chunk
const MOST_LOOK = 0.6;  // and the most of one chunk

export class Driver {
  /** frames(chunks): frames of the next chunks. walk(poses): {preview, done}, promises of frames and of the rest; failed(error) is told what went wrong. */
  constructor({ frames, rate, walk, failed }) {
    Object.assign(this, { frames, rate, walk, failed });
    this.stride = { metres: 0.4, radians: (25 * Math.PI) / 180 };
    this.keys = new Map();  // what is held: name of a motion -> number of chunks that it began
    this.seconds = 1;
    this.epoch = 0;
    this.show({ pose: { R: [1, 0, 0, 0, 1, 0, 0, 0, 1], t: [0, 0, 0] }, picture: null }, [0, -1, 0]);
  }

  /** Stand in a world, or at another moment of it. */
  show(frame, up) {
    this.epoch++;
    this.up = up;
    this.track = [{ pose: frame.pose, frame: frame.picture ? frame : null }];
    this.place = 0;
    this.look = { turn: 0, tilt: 0 };
    this.making = null;  // the chunk whose frames are not there yet
    this.waiting = [];  // poses that follow, of paths and clicks
    this.looking = false;
  }

  hold(motion) { if (!this.keys.has(motion)) this.keys.set(motion, 0); }

  release(motion) {
    // A key that was only tapped is one chunk, also where that could not begin yet.
    if (this.keys.get(motion) === 0) this.tapped = motion;
    this.keys.delete(motion);
  }

  drag(turn, tilt) {
    this.looking = true;
    const most = 1.2 * MOST_LOOK;
    this.look.turn = Math.max(-most, Math.min(most, this.look.turn + turn));
    this.look.tilt = Math.max(-most, Math.min(most, this.look.tilt + tilt));
  }

  /** Follow poses, whole chunks of them. */
  follow(way) { this.waiting.push(...way); }

  /** Go to a pose, gently. */
  goTo(pose) {
    const from = this.end, [metres, radians] = poses.distance(from, pose);
    const chunks = Math.max(1, Math.ceil(Math.max(metres / 0.9, radians / 0.6)));
    if (chunks > 32) throw new Error(`that camera is ${chunks} chunks away; at most 32 are walked at once`);
    const count = this.frames(chunks);
    this.follow(Array.from({ length: count }, (_, i) => poses.between(from, pose, (i + 1) / count)));
  }

  stop() { this.waiting = []; this.keys.clear(); this.tapped = null; }

  get end() { return this.track[this.track.length - 1].pose; }
  get busy() { return this.making !== null; }
  get idle() { return !this.making && !this.waiting.length && !this.keys.size && !this.tapped && this.place >= this.track.length - 1; }

  /** Move on by so many seconds; gives {frame, pose} to draw. While it has to wait nothing new is asked for. */
  tick(seconds, wait = false) {
    if (!wait) this.#ask();
    const last = this.track.length - 1;
    if (this.looking) {
      this.place = last;
    } else if (this.place < last) {
      const ready = this.#filled(Math.floor(this.place));
      if (ready > this.place) {
        // In a held drive frames last until the next ones come; what is left of a drive is played faster.
        const pace = this.making || this.keys.size ? Math.max(this.frames(1) / this.seconds, this.rate) : HASTE * this.rate;
        this.place = Math.min(ready, this.place + pace * seconds);
      } else {
        const goal = Math.min(last, ready + TIRED * this.frames(1));
        this.place += Math.max(0, goal - this.place) * (1 - Math.exp(-seconds / (0.6 * this.seconds)));
      }
    }
    return this.#shown();
  }

  #filled(from) {
    let ready = from;
    while (ready + 1 < this.track.length && this.track[ready + 1].frame) ready++;
    return ready;
  }

  #shown() {
    const at = Math.floor(this.place), next = this.track[Math.min(at + 1, this.track.length - 1)];
    let base = at;
    while (base > 0 && !this.track[base].frame) base--;
    const frame = this.track[base].frame;
    if (this.looking) return { frame, pose: poses.moved(this.end, this.up, this.look) };
    // Between frames of a chunk whose depth is not known yet there is nothing to warp by.
    if (base === at && next.frame && !frame?.depth) return { frame, pose: frame?.pose ?? this.track[at].pose };
    return { frame, pose: poses.between(this.track[at].pose, next.pose, this.place - at) };
  }

  #ask() {
    if (this.making || this.track.length - 1 - this.place > this.frames(1) + 1) return;
    const way = this.#byPath() ?? this.#byKeys() ?? this.#byLook();
    if (way) this.#make(way);
  }

  #byPath() {
    const way = this.waiting.splice(0, this.frames(1));
    if (!way.length) return null;
    this.looking = false;
    while (way.length < this.frames(1)) way.push(way[way.length - 1]);
    return way;
  }

  #byKeys() {
    const held = [...this.keys.keys(), ...(this.tapped ? [this.tapped] : [])];
    if (!held.length) return null;
    const { metres, radians } = this.stride, sum = (plus, minus) => held.includes(plus) - held.includes(minus);
    const motion = { ahead: metres * sum("forward", "back"), side: metres * sum("right", "left"),
      turn: radians * sum("turn_right", "turn_left"), tilt: 0.6 * radians * sum("look_up", "look_down") };
    this.tapped = null;
    for (const key of this.keys.keys()) this.keys.set(key, this.keys.get(key) + 1);
    if (held.includes("stay") || Object.values(motion).some((x) => x)) {
      this.looking = false;
      return poses.path(this.end, this.up, motion, this.frames(1));
    }
    return null;
  }

  #byLook() {
    const { turn, tilt } = this.look, most = Math.max(Math.abs(turn), Math.abs(tilt));
    if (!this.looking || most < LEAST_LOOK) return null;
    const share = Math.min(1, MOST_LOOK / most);
    this.look = { turn: turn * (1 - share), tilt: tilt * (1 - share) };
    return poses.path(this.end, this.up, { turn: turn * share, tilt: tilt * share }, this.frames(1));
  }

  #make(way) {
    const entries = way.map((pose) => ({ pose, frame: null })), began = performance.now(), epoch = this.epoch;
    const made = (this.making = { began });
    this.track.push(...entries);
    this.#forget();
    const { preview, done } = this.walk(way);
    preview.then((frames) => {
      if (epoch !== this.epoch || !frames.length) return;
      frames.forEach((frame, i) => { if (entries[i]) entries[i].frame = frame; });
      this.last = (performance.now() - began) / 1000;
      this.seconds = 0.5 * (this.seconds + this.last);
    }, () => {}).finally(() => { if (this.making === made) this.making = null; });
    done.catch((error) => {
      if (epoch === this.epoch) {
        this.stop();
        this.track = this.track.filter((entry) => !entries.includes(entry) || entry.frame);
        this.place = Math.min(this.place, this.track.length - 1);
        this.look = { turn: 0, tilt: 0 };
        if (this.making === made) this.making = null;
      }
      this.failed(error);
    });
  }

  #forget() {
    const many = Math.min(this.track.length - KEPT, Math.floor(this.place) - this.frames(1));
    if (many <= 0) return;
    this.track.splice(0, many);
    this.place -= many;
  }

  /** Share of the chunk that is being made, estimated from how long others took; null without one. */
  progress() {
    return this.making && Math.min(0.95, (performance.now() - this.making.began) / 1000 / Math.max(this.seconds, 0.05));
  }
}
