// How numbers are written: the same as tavern/numbers.py, which says why.
export const NONE = "–";
const finite = (n) => typeof n === "number" && Number.isFinite(n);
// Half to even, as Python rounds, so that server and page agree on the last digit of whole numbers.
const even = (n) => { const r = Math.round(n); return Math.abs(n % 1) === 0.5 && r % 2 ? r - 1 : r; };

export const whole = (n) => (finite(n) ? even(n).toLocaleString("en-US") : NONE);
export const fixed = (n, d) => (finite(n) ? n.toLocaleString("en-US", { minimumFractionDigits: d, maximumFractionDigits: d }) : NONE);
export const loss = (n) => (finite(n) && n !== 0 && Math.abs(n) < 0.0005 ? rate(n) : fixed(n, 3));
export const stat = (n) => (finite(n) && n >= 1e4 ? rate(n) : fixed(n, n < 100 ? 2 : n < 1000 ? 1 : 0));
export const percent = (share, d = 1) => (finite(share) ? fixed(share * 100, d) : NONE);
export const pace = (n) => (finite(n) ? fixed(n, n < 100 ? 1 : 0) : NONE);

export function rate(n) {
  if (!finite(n)) return NONE;
  if (n === 0) return "0";
  const [mantissa, exponent] = n.toExponential(1).split("e");
  return `${mantissa}e${Number(exponent)}`;
}

export function span(s) {
  if (!finite(s) || s < 0) return NONE;
  if (s < 90) return `${even(s)} s`;
  if (s < 5400) return `${even(s / 60)} min`;
  const minutes = even(s / 60);
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${even(hours / 24)} days`;
}

export function spanRange(bounds) {
  if (!bounds) return NONE;
  const [low, high] = bounds.map(span);
  if (low === high || high === NONE) return low;
  if (low === NONE) return high;
  const [a, b] = [low.split(" "), high.split(" ")];
  return a.length === 2 && b.length === 2 && a[1] === b[1] ? `${a[0]} to ${high}` : `${low} to ${high}`;
}

export function size(n) {
  if (!finite(n)) return NONE;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(n) < 1024) return `${n.toFixed(unit === "B" || n >= 100 ? 0 : 1)} ${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)} TiB`;
}

const two = (n) => String(n).padStart(2, "0");
export const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}`;
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
export const day = (date) => `${date.getDate()} ${months[date.getMonth()]} ${date.getFullYear()}, ${clock(date)}`;
export const count = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;
