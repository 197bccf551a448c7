// Messages of a world server (docs/serving.md), and a connection that sends requests and gives their answers.

const TYPES = {
  bool: Uint8Array, uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int8: Int8Array, int16: Int16Array,
  int32: Int32Array, float32: Float32Array, float64: Float64Array,
};
const PROTOCOL = "mirage";

/** A message as a Blob. Arrays: {name: {dtype, shape, encoding, parts: [Uint8Array]}}. */
export function pack(header, arrays = {}) {
  const entries = Object.entries(arrays).map(([name, { dtype, shape, encoding, parts }]) =>
    ({ name, dtype, shape, encoding, lengths: parts.map((part) => part.length) }));
  const text = new TextEncoder().encode(JSON.stringify({ ...header, arrays: entries }));
  const size = new Uint8Array(new Uint32Array([text.length]).buffer);
  return new Blob(["MRG1", size, text, ...Object.values(arrays).flatMap((array) => array.parts)]);
}

/** Header and arrays of a message: {data, shape} with a typed array, or {parts, shape, type} with encoded pictures. */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(4, true);
  const { arrays: entries = [], ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const arrays = {};
  let at = 8 + length;
  for (const { name, dtype, shape, encoding, lengths } of entries) {
    const parts = lengths.map((size) => buffer.slice(at, (at += size)));
    arrays[name] = encoding === "raw"
      ? { shape, data: new TYPES[dtype](parts[0]) }
      : { shape, type: `image/${encoding}`, parts: parts.map((part) => new Uint8Array(part)) };
  }
  return { header, arrays };
}

/** A file or other bytes as an array to send. */
export const bytesArray = (bytes) => ({ dtype: "uint8", shape: [bytes.length], encoding: "raw", parts: [bytes] });

export class Connection {
  /** `closed` is called once when the connection is gone. */
  constructor(token, closed) {
    const encoded = btoa(String.fromCharCode(...new TextEncoder().encode(token))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/socket`;
    this.socket = new WebSocket(address, token ? [PROTOCOL, `${PROTOCOL}.token.${encoded}`] : [PROTOCOL]);
    this.socket.binaryType = "arraybuffer";
    this.waiting = new Map();
    this.number = 0;
    this.ready = new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onclose = () => {
        const error = new Error("the server does not answer any more; start it again, then reload this page");
        reject(error);
        for (const { reject } of this.waiting.values()) reject(error);
        this.waiting.clear();
        closed();
      };
    });
    this.socket.onmessage = ({ data }) => this.#receive(data);
  }

  /** Send a request; gives {header, arrays}, or throws what the server says is wrong. */
  call(verb, body = {}, arrays = {}) {
    const id = (this.number = (this.number + 1) % 2 ** 32);
    this.socket.send(pack({ ...body, verb, id }, arrays));
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  #receive(data) {
    const id = new DataView(data).getUint32(0, true), request = this.waiting.get(id);
    if (!request) return;
    this.waiting.delete(id);
    const answer = unpack(data.slice(4));
    if (answer.header.error) request.reject(new Error(answer.header.error.message));
    else request.resolve(answer);
  }
}
