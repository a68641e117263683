/** A view that shows its end as it grows, until its reader scrolls up, and again once the reader is back at the end. */
import type { RefObject } from "preact";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

/** Rounding, and no more: a reader who scrolls up by one line has left the end. */
const NEAR = 4;

export interface Follow {
  /** The element that scrolls; what grows is its only child. */
  scroller: RefObject<HTMLDivElement>;
  /** The reader is elsewhere. */
  away: boolean;
  to_end: () => void;
}

export function use_follow(): Follow {
  const scroller = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  /** Where the view was when it was last looked at. */
  const last = useRef(0);
  const [away, set_away] = useState(false);

  const show_end = () => {
    const view = scroller.current!;
    view.scrollTop = view.scrollHeight;
    last.current = view.scrollTop;
  };
  const to_end = () => {
    following.current = true;
    set_away(false);
    show_end();
  };

  useLayoutEffect(() => {
    const view = scroller.current!;
    const scrolled = () => {
      const { scrollTop, scrollHeight, clientHeight } = view;
      if (scrollHeight - clientHeight - scrollTop <= NEAR) following.current = true;
      // What grows or shrinks moves the end, and not the reader.
      else if (scrollTop < last.current) following.current = false;
      last.current = scrollTop;
      set_away(!following.current);
    };
    const grown = new ResizeObserver(() => {
      if (following.current) show_end();
    });
    view.addEventListener("scroll", scrolled, { passive: true });
    grown.observe(view);
    grown.observe(view.firstElementChild!);
    return () => {
      grown.disconnect();
      view.removeEventListener("scroll", scrolled);
    };
  }, []);
  return { scroller, away, to_end };
}
