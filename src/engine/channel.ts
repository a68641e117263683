/** Values on their way from one part of a program to another that reads them one by one, and their end. */
export class Channel<T> {
  private readonly values: T[] = [];
  private ended: { error?: unknown } | null = null;
  private wake = (): void => {};

  push(value: T): void {
    this.values.push(value);
    this.wake();
  }

  /** Nothing comes after this. @param error what the reader gets after the last value */
  end(error?: unknown): void {
    this.ended ??= error === undefined ? {} : { error };
    this.wake();
  }

  /** The values in order, for one reader. */
  async *read(): AsyncGenerator<T> {
    for (;;) {
      const value = this.values.shift();
      if (value !== undefined) yield value;
      else if (this.ended) {
        if ("error" in this.ended) throw this.ended.error;
        return;
      } else
        await new Promise<void>((resume) => {
          this.wake = resume;
        });
    }
  }
}
