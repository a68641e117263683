/** `strftime`. */
import { charge, STEP } from "./budget.js";

const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const months = "January February March April May June July August September October November December".split(" ");

/** The week of the year and its year, as ISO 8601 counts. */
function iso_week(date: Date): [number, number] {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate() + 4 - (date.getDay() || 7));
  return [thursday.getFullYear(), Math.floor(day_of_year(thursday) / 7) + 1];
}

const day_of_year = (date: Date) =>
  Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 1)) / 864e5,
  );

/** `date.strftime(format)` in the C locale, in local time; `-`, `_`, `0` and `^` after the sign as the GNU library has them. */
export function strftime(date: Date, format: string): string {
  const two = (value: number, fill = "0", width = 2): [string, string, number] => [String(value), fill, width];
  const whole = (letters: string) => strftime(date, letters);
  const hour = date.getHours();
  const forms: Record<string, () => string | [string, string, number]> = {
    Y: () => String(date.getFullYear()), C: () => two(Math.floor(date.getFullYear() / 100)), y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1), d: () => two(date.getDate()), e: () => two(date.getDate(), " "), j: () => two(day_of_year(date) + 1, "0", 3),
    H: () => two(hour), I: () => two(hour % 12 || 12), k: () => two(hour, " "), l: () => two(hour % 12 || 12, " "),
    M: () => two(date.getMinutes()), S: () => two(date.getSeconds()), f: () => two(date.getMilliseconds() * 1000, "0", 6),
    p: () => (hour < 12 ? "AM" : "PM"), P: () => (hour < 12 ? "am" : "pm"),
    A: () => days[date.getDay()]!, a: () => days[date.getDay()]!.slice(0, 3), B: () => months[date.getMonth()]!,
    b: () => months[date.getMonth()]!.slice(0, 3), h: () => months[date.getMonth()]!.slice(0, 3),
    w: () => String(date.getDay()), u: () => String(date.getDay() || 7), G: () => String(iso_week(date)[0]), g: () => two(iso_week(date)[0] % 100),
    V: () => two(iso_week(date)[1]), U: () => two(Math.floor((day_of_year(date) + 7 - date.getDay()) / 7)),
    W: () => two(Math.floor((day_of_year(date) + 7 - ((date.getDay() + 6) % 7)) / 7)),
    s: () => String(Math.floor(date.getTime() / 1000)), z: () => "", Z: () => "",
    D: () => whole("%m/%d/%y"), x: () => whole("%m/%d/%y"), F: () => whole("%Y-%m-%d"), T: () => whole("%H:%M:%S"), X: () => whole("%H:%M:%S"),
    R: () => whole("%H:%M"), r: () => whole("%I:%M:%S %p"), c: () => whole("%a %b %e %H:%M:%S %Y"), n: () => "\n", t: () => "\t", "%": () => "%",
  }; // biome-ignore format: a table
  return format.replace(/%([-_0^]?)(.)/gs, (all, flag: string, letter: string) => {
    charge(64 * STEP);
    const made = forms[letter]?.();
    if (made === undefined) return all;
    const [value, fill, width] = typeof made === "string" ? [made, " ", 0] : made;
    if (flag === "^") return value.toUpperCase();
    return flag === "-" ? value : value.padStart(width, flag === "_" ? " " : flag === "0" ? "0" : fill);
  });
}
