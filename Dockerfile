# An image with only the gateway: no shell, no libc, and a numeric user.
#
#   docker build -t replgate .
#   docker run -v "$PWD/gateway.toml":/etc/replgate/gateway.toml:ro -v "$PWD/certs/dc1":/etc/replgate/certs/dc1:ro \
#     --read-only --cap-drop ALL -p 7379:7379 replgate
#
# Mounted files must be readable by user 65532, and the key by no other user. The health check
# asks the gateway that runs with /etc/replgate/gateway.toml.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN scripts/static /out/usr/local/bin/replgate
# A new volume gets the owner and mode of the folder that it is mounted on. With these folders,
# `replgate certs` can write to volumes without root.
RUN mkdir -p /out/etc/replgate /out/certs/ca /out/certs/dc1 /out/certs/dc2 && \
    chmod 700 /out/certs /out/certs/* && chown -R 65532:65532 /out/certs

FROM scratch
COPY --from=build /out /
USER 65532:65532
WORKDIR /etc/replgate
ENTRYPOINT ["/usr/local/bin/replgate"]
CMD ["run"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/replgate", "status"]
