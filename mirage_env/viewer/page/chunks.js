// Chunks that this page has seen: frames with their poses and depth, and what the memory knew of the last one.

import { bitmap } from "./panes.js";
import { fromRows } from "./poses.js";

const MOST = 80;

export class Chunks {
  #moments = new Map();

  /** The chunk that led to a moment, if this page has seen it. */
  get(moment) { return this.#moments.get(moment); }

  /** Keep a chunk whose answer has everything. */
  async keep(header, arrays) { return this.complete({ frames: await framesOf(arrays.frames, header.poses) }, header, arrays); }

  /** Give a chunk whose frames are there what came later. */
  complete(chunk, header, { depth, observed, readout }) {
    const [keys, h, w] = depth.shape, size = h * w;
    chunk.frames.forEach((frame, i) => {
      const key = Math.min(keys - 1, Math.floor((i * keys) / chunk.frames.length));
      frame.depth = { data: depth.data.subarray(key * size, (key + 1) * size), size: [h, w] };
    });
    Object.assign(chunk, { observed, readout, number: header.chunk });
    this.#moments.set(header.moment, chunk);
    if (this.#moments.size > MOST) this.#moments.delete(this.#moments.keys().next().value);
    return chunk;
  }
}

/** Frames {picture, jpeg, pose, depth: null} of encoded pictures and the rows of their poses. */
export const framesOf = ({ parts, type }, rows) => Promise.all(parts.map(async (part, i) =>
  ({ picture: await bitmap(part, type), jpeg: part, pose: fromRows(rows[i]), depth: null })));

export const pictureOf = ({ parts, type }) => bitmap(parts[0], type);

export const countOf = (chunks) => `${chunks} ${chunks === 1 ? "chunk" : "chunks"}`;
