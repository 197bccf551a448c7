// Poses T_world_cam (OpenCV axes, metres): {R: 9 numbers, row by row, t: 3 numbers}.

const STEEPEST = (60 * Math.PI) / 180;
const UPRIGHT = Math.cos(Math.PI / 6);

export const fromRows = (m) => ({ R: m.slice(0, 3).flatMap((row) => row.slice(0, 3)), t: m.slice(0, 3).map((row) => row[3]) });
export const toRows = ({ R, t }) => [0, 1, 2].map((i) => [...R.slice(3 * i, 3 * i + 3), t[i]]).concat([[0, 0, 0, 1]]);
export const column = ({ R }, i) => [R[i], R[3 + i], R[6 + i]];
export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const scale = (a, s) => a.map((x) => x * s);
export const add = (...vectors) => [0, 1, 2].map((i) => vectors.reduce((sum, v) => sum + v[i], 0));
export const unit = (a) => scale(a, 1 / Math.hypot(...a));
export const times = (A, B) =>
  Array.from({ length: 9 }, (_, n) => [0, 1, 2].reduce((sum, k) => sum + A[3 * Math.floor(n / 3) + k] * B[3 * k + (n % 3)], 0));
export const transposed = (R) => [R[0], R[3], R[6], R[1], R[4], R[7], R[2], R[5], R[8]];
export const turned = (R, v) => [0, 1, 2].map((i) => dot(R.slice(3 * i, 3 * i + 3), v));

/** Pose of b seen from a. */
export const relative = (a, b) => {
  const back = transposed(a.R);
  return { R: times(back, b.R), t: turned(back, add(b.t, scale(a.t, -1))) };
};

/** Rotation about a unit vector. */
export function rotation([x, y, z], angle) {
  const c = Math.cos(angle), s = Math.sin(angle), d = 1 - c;
  return [c + x * x * d, x * y * d - z * s, x * z * d + y * s, y * x * d + z * s, c + y * y * d, y * z * d - x * s,
    z * x * d - y * s, z * y * d + x * s, c + z * z * d];
}

/** Axis and angle of a rotation. */
export function axisAngle(R) {
  const v = [R[7] - R[5], R[2] - R[6], R[3] - R[1]], sine = Math.hypot(...v);
  const angle = Math.atan2(sine, R[0] + R[4] + R[8] - 1);
  if (sine > 1e-9) return [scale(v, 1 / sine), angle];
  if (angle < 1) return [[0, 0, 1], 0];
  const axis = [0, 4, 8].map((i) => Math.sqrt(Math.max(0, (R[i] + 1) / 2)));  // half a turn
  const most = axis.indexOf(Math.max(...axis));
  return [unit(axis.map((x, i) => (i === most ? x : Math.sign(R[3 * most + i] || 1) * x))), Math.PI];
}

/** Up in the world: the world axis nearest to the camera's own up, if it is near at all. */
export function upOf(pose) {
  const up = scale(column(pose, 1), -1);
  const axis = up.reduce((best, x, i) => (Math.abs(x) > Math.abs(up[best]) ? i : best), 0);
  return Math.abs(up[axis]) < UPRIGHT ? up : [0, 1, 2].map((i) => (i === axis ? Math.sign(up[axis]) : 0));
}

/** The pose after a motion that keeps height: metres ahead and to the right, radians to the right and upwards. */
export function moved(pose, up, { ahead = 0, side = 0, turn = 0, tilt = 0 }) {
  const level = (v) => unit(add(v, scale(up, -dot(up, v))));
  let R = times(rotation(up, -turn), pose.R);
  const right = level(column({ R }, 0));
  const now = Math.asin(Math.max(-1, Math.min(1, dot(up, column({ R }, 2)))));
  R = times(rotation(right, Math.max(-STEEPEST, Math.min(STEEPEST, now + tilt)) - now), R);
  return { R: orthonormal(R), t: add(pose.t, scale(right, side), scale(cross(up, right), ahead)) };
}

/** `count` poses after `pose`, each moved by an equal part of the motion. */
export function path(pose, up, motion, count) {
  const part = Object.fromEntries(Object.entries(motion).map(([name, value]) => [name, value / count]));
  return Array.from({ length: count }, () => (pose = moved(pose, up, part)));
}

/** The pose at a share of the way from a to b. */
export function between(a, b, share) {
  const [axis, angle] = axisAngle(times(transposed(a.R), b.R));
  return { R: times(a.R, rotation(axis, angle * share)), t: a.t.map((x, i) => x + share * (b.t[i] - x)) };
}

/** Metres and radians from a to b. */
export const distance = (a, b) => [Math.hypot(...add(b.t, scale(a.t, -1))), axisAngle(times(transposed(a.R), b.R))[1]];

function orthonormal(R) {
  const x = unit([R[0], R[3], R[6]]);
  const z = unit(cross(x, [R[1], R[4], R[7]])), y = cross(z, x);
  return [x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2]];
}
