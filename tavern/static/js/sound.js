// Short cues made on the spot. Off until the person turns them on; the choice stays in this browser. Every cue has a
// visible twin; no sound comes from a hidden page.
const tone = (f, t, d, type = "square", g = 0.5, to = 0) => ({ f, t, d, type, g, to });
const CUES = {
  on: [tone(520, 0, 0.05)],
  evaluation_recorded: [tone(392, 0, 0.09, "triangle"), tone(523, 0.1, 0.14, "triangle")],
  checkpoint_saved: [tone(330, 0, 0.06), tone(440, 0.07, 0.06), tone(660, 0.14, 0.16)],
  level_reached: [tone(392, 0, 0.1), tone(494, 0.1, 0.1), tone(587, 0.2, 0.1), tone(784, 0.3, 0.32)],
  champion_changed: [tone(523, 0, 0.14, "triangle"), tone(659, 0.14, 0.14, "triangle"), tone(784, 0.28, 0.14, "triangle"), tone(1047, 0.42, 0.5, "triangle")],
  job_completed: [tone(523, 0, 0.1), tone(784, 0.12, 0.24)],
  job_failed: [tone(220, 0, 0.3, "sawtooth", 0.3, 110), tone(110, 0.3, 0.5, "sawtooth", 0.3, 55)],
  nonfinite: [tone(140, 0, 0.5, "sawtooth", 0.25, 300)],
};
CUES.service_broken = CUES.out_of_memory = CUES.job_failed;
const GAP_MS = 400;
const VOLUME = 0.14;
let context = null;
let playedAt = 0;
const stored = () => { try { return localStorage.getItem("realm-sound") === "on"; } catch { return false; } };
let enabled = stored();

export const soundIsOn = () => enabled;

export function turnSound(next) {
  enabled = next;
  try { localStorage.setItem("realm-sound", next ? "on" : "off"); } catch { /* the choice lasts as long as the page */ }
  if (next) play("on");
  document.dispatchEvent(new CustomEvent("realm-sound"));
}

export function play(kind) {
  const cue = CUES[kind];
  if (!enabled || !cue || document.hidden || performance.now() - playedAt < GAP_MS) return;
  playedAt = performance.now();
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
  const volume = context.createGain();
  volume.gain.value = VOLUME;
  volume.connect(context.destination);
  for (const note of cue) {
    const [oscillator, gain] = [context.createOscillator(), context.createGain()];
    const at = context.currentTime + note.t;
    oscillator.type = note.type;
    oscillator.frequency.setValueAtTime(note.f, at);
    if (note.to) oscillator.frequency.exponentialRampToValueAtTime(note.to, at + note.d);
    gain.gain.setValueAtTime(note.g, at);
    gain.gain.exponentialRampToValueAtTime(0.001, at + note.d);
    oscillator.connect(gain).connect(volume);
    oscillator.start(at);
    oscillator.stop(at + note.d + 0.02);
  }
}
