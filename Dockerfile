# syntax=docker/dockerfile:1
# A static binary on an empty image: no shell, no package manager, not root.
#   docker build -t creditmirror .
#   docker run --rm creditmirror demo
# The version comes from git, whose folder is part of the build's context; without
# one (a source archive) give --build-arg VERSION=v1.2.3. The same commit and Go
# version make the same bytes: --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
# does so for the times in the layers, too.
ARG GO_VERSION=1.26.8
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-bookworm AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOFLAGS=-trimpath GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download && go mod verify
COPY . .
ARG VERSION= TARGETOS=linux TARGETARCH=amd64
RUN GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -ldflags "-s -w -X github.com/creditmirror/creditmirror/app.version=${VERSION}" -o /out/creditmirror ./cmd/creditmirror
# /data holds the embedded database, /tmp what a demo writes.
RUN mkdir -p /out/data /out/tmp && chmod 1777 /out/tmp

FROM scratch
ARG VERSION=
LABEL org.opencontainers.image.title="creditmirror" \
      org.opencontainers.image.description="A local, provably correct copy of your customers' Stripe credit" \
      org.opencontainers.image.source="https://github.com/creditmirror/creditmirror" \
      org.opencontainers.image.documentation="https://github.com/creditmirror/creditmirror/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tmp /tmp
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/creditmirror /creditmirror
USER 65532:65532
WORKDIR /data
VOLUME /data
# Probes and Prometheus come from outside. The ops port serves profiles and the
# status as well: publish it to nobody else.
ENV CREDITMIRROR_OPS_ADDR=:9090
EXPOSE 8080 8081 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/creditmirror", "healthcheck"]
ENTRYPOINT ["/creditmirror"]
CMD ["serve"]
