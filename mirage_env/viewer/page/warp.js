// The imagined frame, moved by its depth to the camera that is asked for until that camera's own frame is there.

import { attribute, context, fit, program } from "./gl.js";
import { relative } from "./poses.js";

const EDGE = 1.18;  // neighbours whose depths differ by more are not one surface
const PLANE = 3.0;  // metres, for frames whose depth is not known yet
const FAR = 60.0;
const VERTEX = `
  in vec2 place; in float depth;
  uniform vec4 lens; uniform mat3 R; uniform vec3 t;
  out vec2 at;
  void main() {
    vec3 seen = R * vec3((place - lens.zw) / lens.xy * depth, depth) + t;
    at = place;
    vec2 image = 2.0 * (lens.xy * seen.xy + lens.zw * seen.z) - seen.z;
    gl_Position = vec4(image.x, -image.y, 1.0005 * seen.z - 0.1, seen.z);
  }`;
const FRAGMENT = `
  in vec2 at; uniform sampler2D frame; uniform float light; out vec4 colour;
  void main() { colour = vec4(texture(frame, at).rgb * light, 1.0); }`;

export class Warp {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = context(canvas);
    const gl = this.gl;
    this.program = program(gl, VERTEX, FRAGMENT);
    gl.useProgram(this.program);
    this.buffers = { place: gl.createBuffer(), depth: gl.createBuffer(), index: gl.createBuffer() };
    this.texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    for (const [name, value] of [["MIN_FILTER", "LINEAR"], ["MAG_FILTER", "LINEAR"], ["WRAP_S", "CLAMP_TO_EDGE"], ["WRAP_T", "CLAMP_TO_EDGE"]])
      gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${name}`], gl[value]);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    this.where = Object.fromEntries(["lens", "R", "t", "light"].map((name) => [name, gl.getUniformLocation(this.program, name)]));
    this.drawn = {};
  }

  /** Draw `frame` {picture, pose, depth: {data, size: [h, w]} or null} from `pose`; lens: fx, fy, cx, cy by image size. */
  draw(frame, pose, lens) {
    const gl = this.gl, shape = frame.depth ?? null;
    const { R, t } = relative(pose, frame.pose);
    const key = [...R, ...t].map((x) => x.toFixed(5)).join();
    const resized = fit(this.canvas);
    if (!resized && this.drawn.frame === frame && this.drawn.depth === shape && this.drawn.key === key) return false;
    if (this.drawn.frame !== frame) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, frame.picture);
    if (this.drawn.frame !== frame || this.drawn.depth !== shape) this.#shape(shape);
    this.drawn = { frame, depth: shape, key };
    this.#viewport(lens);
    gl.clearColor(0.03, 0.03, 0.05, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniform4fv(this.where.lens, lens);
    gl.uniformMatrix3fv(this.where.R, true, R);
    gl.uniform3fv(this.where.t, t);
    // What lies behind an edge is not known: it is drawn darker, the more the farther the camera has moved.
    gl.uniform1f(this.where.light, Math.max(0.5, 1 - 4 * Math.hypot(...t)));
    gl.drawElements(gl.TRIANGLES, this.torn, gl.UNSIGNED_SHORT, 2 * this.whole);
    gl.uniform1f(this.where.light, 1);
    gl.drawElements(gl.TRIANGLES, this.whole, gl.UNSIGNED_SHORT, 0);
    return true;
  }

  /** The picture keeps its aspect in a canvas of another one. */
  #viewport([fx, fy]) {
    const { width, height } = this.canvas, aspect = fy / fx;
    const [w, h] = [Math.min(width, height * aspect), Math.min(height, width / aspect)];
    this.gl.viewport((width - w) / 2, (height - h) / 2, w, h);
  }

  #shape(depth) {
    const gl = this.gl, [h, w] = depth?.size ?? [2, 2];
    const metres = depth ? depth.data.map((z) => (z > 0.05 ? Math.min(z, FAR) : FAR)) : new Float32Array(4).fill(PLANE);
    const edge = (i, n) => (i === 0 ? 0 : i === n - 1 ? 1 : (i + 0.5) / n);
    const place = new Float32Array(2 * h * w);
    for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) place.set([edge(j, w), edge(i, h)], 2 * (i * w + j));
    const whole = [], torn = [];
    for (let i = 0; i + 1 < h; i++)
      for (let j = 0; j + 1 < w; j++) {
        const a = i * w + j, corners = [a, a + 1, a + w, a + w + 1], z = corners.map((c) => metres[c]);
        const apart = Math.max(...z) > EDGE * Math.min(...z);
        (apart ? torn : whole).push(a, a + w, a + 1, a + 1, a + w, a + w + 1);
      }
    [this.whole, this.torn] = [whole.length, torn.length];
    attribute(gl, this.program, "place", this.buffers.place, place, 2);
    attribute(gl, this.program, "depth", this.buffers.depth, metres, 1);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.index);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, new Uint16Array([...whole, ...torn]), gl.DYNAMIC_DRAW);
  }
}
