# The collector for hosts where nothing is installed; `pruner run --every 5m` in a second container prunes.
#
#   make dist && docker build --tag docker-hindsight .
#   docker run --detach --name hindsight-collector --restart always \
#     --volume /var/run/docker.sock:/var/run/docker.sock --volume /var/lib/docker:/var/lib/docker:ro \
#     --volume docker-hindsight:/var/lib/docker-hindsight docker-hindsight
#
# The data root is only measured, so it is read-only, and at the same path as on the host.
ARG BASE=debian:bookworm-slim
FROM ${BASE} AS package
COPY dist/docker-hindsight_*~deb12u1_amd64.deb /root/
RUN dpkg-deb --extract /root/docker-hindsight_*.deb /package

# Without the package itself, which would stay in a layer of its own.
FROM ${BASE}
RUN command -v python3 \
 || { apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
COPY --from=package /package /
RUN python3 -m compileall -q /usr/lib/docker-hindsight
ENV DOCKER_HINDSIGHT_LOG=/var/lib/docker-hindsight/events.duckdb
VOLUME /var/lib/docker-hindsight
HEALTHCHECK --interval=1m --timeout=30s --start-period=10m CMD ["collector", "status", "--check"]
CMD ["collector", "run"]
