// The memory in 3D: each token is the patch of surface that its cell covered, facing the camera that saw it.

import { attribute, context, fit, program } from "./gl.js";
import { add, column, cross, dot, fromRows, scale, turned, transposed, unit } from "./poses.js";

const PATCH_VERTEX = `
  in vec2 corner; in vec3 xyz; in vec3 right; in vec3 down; in vec3 colour;
  uniform mat3 R; uniform vec3 eye; uniform vec3 lens; uniform vec4 ceiling;
  out vec3 paint;
  void main() {
    vec3 seen = R * (xyz + 1.08 * (corner.x * right + corner.y * down) - eye);
    paint = colour;
    gl_Position = vec4(lens.x * seen.x, -lens.y * seen.y, 1.0005 * seen.z - 0.1, seen.z);
    if (dot(xyz, ceiling.xyz) > ceiling.w) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  }`;
const LINE_VERTEX = `
  in vec3 xyz; in vec3 colour; uniform mat3 R; uniform vec3 eye; uniform vec3 lens; out vec3 paint;
  void main() {
    vec3 seen = R * (xyz - eye);
    paint = colour;
    gl_Position = vec4(lens.x * seen.x, -lens.y * seen.y, 1.0005 * seen.z - 0.102, seen.z);
  }`;
const FRAGMENT = "in vec3 paint; out vec4 colour; void main() { colour = vec4(paint, 1.0); }";
const HEADROOM = 0.3;  // what lies so far above every camera is left out from outside, metres
const FIELD = 0.7;  // half of the field of view of a look from outside, as a tangent
const OLD = [68, 30, 110], NEW = [253, 220, 70], UNSURE = [205, 60, 60], SURE = [50, 150, 80];
const PATH = [110, 130, 190], HERE = [255, 140, 40];
const MOST_CAMERAS = 60;

export class MemoryView {
  constructor(canvas) {
    this.canvas = canvas;
    const gl = (this.gl = context(canvas));
    gl.enable(gl.DEPTH_TEST);
    this.patches = program(gl, PATCH_VERTEX, FRAGMENT);
    this.lines = program(gl, LINE_VERTEX, FRAGMENT);
    this.vaos = [gl.createVertexArray(), gl.createVertexArray()];
    this.buffers = Object.fromEntries(["corner", "xyz", "right", "down", "colour", "line", "paint"].map((n) => [n, gl.createBuffer()]));
    this.orbit = { turn: 0, tilt: 0.75, away: 2.7, middle: null };
    Object.assign(this, { eyes: false, colouring: "colour", count: 0, cameras: [], segments: 0, dirty: true });
  }

  /** Show a memory: the answer to `tokens`, the lens of the world's cameras (by image size) and its up. */
  show({ header, arrays }, lens, up) {
    Object.assign(this, { arrays, lens, up, chunk: header.chunk });
    const path = header.path.map(fromRows);
    this.here = path[path.length - 1];
    const every = Math.ceil(path.length / MOST_CAMERAS);
    this.cameras = path.filter((_, i) => (path.length - 1 - i) % every === 0);
    this.top = Math.max(...path.map(({ t }) => dot(t, up))) + HEADROOM;
    this.count = arrays.xyz.shape[0];
    const gl = this.gl;
    gl.bindVertexArray(this.vaos[0]);
    attribute(gl, this.patches, "corner", this.buffers.corner, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), 2);
    for (const name of ["xyz", "right", "down"]) attribute(gl, this.patches, name, this.buffers[name], arrays[name].data, 3, { divisor: 1 });
    this.paint(this.colouring);
    this.#drawPath(path);
    const ahead = column(this.here, 2), level = unit(add(ahead, scale(up, -dot(ahead, up))));
    this.ahead = level;
    this.orbit.middle = add(this.here.t, scale(level, 1.0), scale(up, -0.5));
    this.dirty = true;
  }

  /** Colour by "colour", "age" or "confidence". */
  paint(colouring) {
    this.colouring = colouring;
    if (!this.arrays) return;
    const { colour, age, confidence } = this.arrays;
    const mixed = (low, high, shares) => {
      const out = new Uint8Array(3 * shares.length);
      shares.forEach((share, i) => { for (let k = 0; k < 3; k++) out[3 * i + k] = low[k] + share * (high[k] - low[k]); });
      return out;
    };
    const oldest = Math.max(1, this.chunk);
    const colours = { colour: () => colour.data,
      age: () => mixed(NEW, OLD, Array.from(age.data, (a) => Math.min(1, a / oldest))),
      confidence: () => mixed(UNSURE, SURE, Array.from(confidence.data, (c) => c / 255)) }[colouring]();
    this.gl.bindVertexArray(this.vaos[0]);
    attribute(this.gl, this.patches, "colour", this.buffers.colour, colours, 3, { divisor: 1, type: this.gl.UNSIGNED_BYTE });
    this.dirty = true;
  }

  turn(dx, dy) {
    this.orbit.turn += dx;
    this.orbit.tilt = Math.max(-0.4, Math.min(1.5, this.orbit.tilt + dy));
    [this.eyes, this.dirty] = [false, true];
  }

  zoom(factor) {
    this.orbit.away = Math.max(0.4, Math.min(30, this.orbit.away * factor));
    [this.eyes, this.dirty] = [false, true];
  }

  see(eyes) { [this.eyes, this.dirty] = [eyes, true]; }

  draw() {
    if (!this.arrays || !this.canvas.clientWidth) return;
    if (!fit(this.canvas) && !this.dirty) return;
    this.dirty = false;
    const gl = this.gl, { R, eye, lens } = this.#view();
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0.06, 0.065, 0.08, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const use = (made, vao) => {
      gl.useProgram(made);
      gl.bindVertexArray(vao);
      gl.uniformMatrix3fv(gl.getUniformLocation(made, "R"), true, R);
      gl.uniform3fv(gl.getUniformLocation(made, "eye"), eye);
      gl.uniform3fv(gl.getUniformLocation(made, "lens"), lens);
    };
    use(this.patches, this.vaos[0]);
    gl.uniform4fv(gl.getUniformLocation(this.patches, "ceiling"), [...this.up, this.eyes ? 1e9 : this.top]);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
    if (this.eyes || !this.segments) return;
    use(this.lines, this.vaos[1]);
    gl.drawArrays(gl.LINES, 0, this.segments);
  }

  /** The camera of the path that is drawn within a few pixels of a place in the canvas; null without one. */
  cameraAt(x, y) {
    if (this.eyes || !this.arrays) return null;
    const { R, eye, lens } = this.#view(), { clientWidth: w, clientHeight: h } = this.canvas;
    const near = this.cameras.slice(0, -1).map((pose) => {
      const p = turned(R, add(pose.t, scale(eye, -1)));
      const at = [(0.5 + (0.5 * lens[0] * p[0]) / p[2]) * w, (0.5 + (0.5 * lens[1] * p[1]) / p[2]) * h];
      return { pose, apart: p[2] > 0 ? Math.hypot(at[0] - x, at[1] - y) : Infinity };
    }).sort((a, b) => a.apart - b.apart)[0];
    return near && near.apart < 16 ? near.pose : null;
  }

  #view() {
    const aspect = this.canvas.clientWidth / Math.max(1, this.canvas.clientHeight);
    if (this.eyes) {
      const [fx, fy] = this.lens, wide = (fy / fx) * 1 / aspect;
      return { R: transposed(this.here.R), eye: this.here.t, lens: [2 * fx * Math.min(1, wide), 2 * fy * Math.min(1, 1 / wide), 1] };
    }
    const { turn, tilt, away, middle } = this.orbit, side = cross(this.ahead, this.up);
    const level = add(scale(this.ahead, Math.cos(turn)), scale(side, Math.sin(turn)));
    const z = unit(add(scale(level, Math.cos(tilt)), scale(this.up, -Math.sin(tilt))));
    const x = unit(cross(z, this.up)), y = cross(z, x), eye = add(middle, scale(z, -away));
    const f = 1 / FIELD;
    return { R: [...x, ...y, ...z], eye, lens: aspect > 1 ? [f / aspect, f, 1] : [f, f * aspect, 1] };
  }

  #drawPath(path) {
    const ends = [], paints = [];
    const line = (a, b, paint) => { ends.push(...a, ...b); paints.push(...paint, ...paint); };
    path.slice(1).forEach(({ t }, i) => line(path[i].t, t, PATH));
    for (const pose of this.cameras) {
      const here = pose === this.here, z = here ? 0.28 : 0.13, [x, y] = [0.5 / this.lens[0], 0.5 / this.lens[1]];
      const corners = [[-x, -y], [x, -y], [x, y], [-x, y]].map(([u, v]) => add(pose.t, turned(pose.R, [u * z, v * z, z])));
      const paint = here ? HERE : PATH;
      corners.forEach((corner, i) => { line(pose.t, corner, paint); line(corner, corners[(i + 1) % 4], paint); });
    }
    const gl = this.gl;
    gl.bindVertexArray(this.vaos[1]);
    attribute(gl, this.lines, "xyz", this.buffers.line, new Float32Array(ends), 3);
    attribute(gl, this.lines, "colour", this.buffers.paint, new Uint8Array(paints), 3, { type: gl.UNSIGNED_BYTE });
    this.segments = ends.length / 3;
  }
}
