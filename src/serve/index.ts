/** The service, as a program of one's own starts it: `import { start_server } from "bimedix/serve"`. */
/// <reference types="node" preserve="true" />
export { Log } from "./log.js";
export { check_key } from "./security.js";
export { RunningServer, type ServerOptions, start_server } from "./server.js";
