/** A class of characters, asked one by one. JavaScript's own classes say what is in it, and each answer is kept. */
export class CharacterSet {
  private readonly one: RegExp;
  /** By 256 characters: 0 not known yet, 1 outside, 2 in it. */
  private readonly pages: (Uint8Array | undefined)[] = [];

  /** @param inside what stands between the brackets of a class with the flag `v`. @throws SyntaxError */
  constructor(readonly inside: string) {
    this.one = new RegExp(`^[${inside}]$`, "v");
  }

  /** @param code of a character; -1, the end of a text, is in no class */
  has(code: number): boolean {
    if (code < 0) return false;
    let page = this.pages[code >> 8];
    if (!page) this.pages[code >> 8] = page = new Uint8Array(256);
    const known = page[code & 255];
    if (known) return known === 2;
    const found = this.one.test(String.fromCodePoint(code));
    page[code & 255] = found ? 2 : 1;
    return found;
  }
}
