# The server in a container: docker build -t bimedix . && docker run -p 8000:8000 -e BIMEDIX_API_KEY=... bimedix
# Not tried where this was written, for want of Docker; the same commands are what a fresh clone runs.
FROM node:20-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json ./
COPY src src
COPY test test
COPY web web
RUN npm run build && npm prune --omit=dev

FROM node:20-slim
WORKDIR /app
ENV NODE_ENV=production BIMEDIX_CACHE=/cache
COPY --from=build /app/node_modules node_modules
COPY --from=build /app/dist dist
COPY package.json ./
COPY web/index.html web/style.css web/
COPY models/nano models/nano
RUN mkdir /cache && chown node /cache
USER node
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD node -e "fetch('http://localhost:8000/health').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"
ENTRYPOINT ["node", "dist/src/cli/main.js", "serve", "--host", "0.0.0.0", "--allow-host", "*"]
