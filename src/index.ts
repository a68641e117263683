/** The package: what an application imports. */
/// <reference types="node" preserve="true" />
export {
  type Answering,
  type AnswerOptions,
  type AskResult,
  Assistant,
  type CallOptions,
  type McqaResult,
  notice,
  type RoutingResult,
} from "./assistant/assistant.js";
export { RemoteAssistant } from "./assistant/remote.js";
export { EMBEDDED_MODEL } from "./embedded.js";
export * from "./engine/auto.js";
export type * from "./engine/engine.js";
export type { GenerationConfig, ModelGenerateOptions } from "./engine/generate.js";
export type { ProgressInfo } from "./engine/pretrained_options.js";
export { type Streamer, TextStreamer, type TextStreamerOptions } from "./engine/streamers.js";
export { BimedixError, type ErrorCode } from "./errors.js";
export { open_checkpoint } from "./model/checkpoint.js";
export type { ModelConfig } from "./model/config.js";
export { convert, type Dtype } from "./model/convert.js";
export type { ChatMessage } from "./text/chat.js";
export { StreamingDecoder, type Tokenizer } from "./text/tokenizer.js";
