// What both WebGL pictures of the page need.

export function context(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) throw new Error("this browser has no WebGL 2; take a newer one, or turn on hardware acceleration");
  return gl;
}

export function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, `#version 300 es\nprecision highp float;\n${source}`);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) ?? "no program");
  return made;
}

/** Fill a buffer and let a program read it. */
export function attribute(gl, made, name, buffer, data, size, { divisor = 0, type = gl.FLOAT, use = gl.DYNAMIC_DRAW } = {}) {
  const place = gl.getAttribLocation(made, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  if (data) gl.bufferData(gl.ARRAY_BUFFER, data, use);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, size, type, type === gl.UNSIGNED_BYTE, 0, 0);
  gl.vertexAttribDivisor(place, divisor);
}

/** Give a canvas as many pixels as it is large; true if that changed. */
export function fit(canvas, most = 1024) {
  const ratio = Math.min(devicePixelRatio || 1, 2), limit = Math.min(1, most / (canvas.clientWidth * ratio || 1));
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.max(1, Math.round(n * ratio * limit)));
  if (canvas.width === width && canvas.height === height) return false;
  [canvas.width, canvas.height] = [width, height];
  return true;
}
