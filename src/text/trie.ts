/** The longest of many texts that stands at a place, in time that does not grow with their number. */
interface Node<T> {
  value?: T;
  next?: Map<number, Node<T>>;
}

export class Trie<T> {
  private readonly root: Node<T> = {};

  constructor(texts: Iterable<readonly [string, T]>) {
    for (const [text, value] of texts) {
      let node = this.root;
      for (let i = 0; i < text.length; i++) {
        node.next ??= new Map();
        let after = node.next.get(text.charCodeAt(i));
        if (!after) node.next.set(text.charCodeAt(i), (after = {}));
        node = after;
      }
      if (text !== "") node.value ??= value;
    }
  }

  longest(text: string, at: number): { length: number; value: T } | null {
    let found: { length: number; value: T } | null = null;
    let node: Node<T> | undefined = this.root;
    for (let i = at; node?.next && i < text.length; i++) {
      node = node.next.get(text.charCodeAt(i));
      if (node?.value !== undefined) found = { length: i + 1 - at, value: node.value };
    }
    return found;
  }
}
