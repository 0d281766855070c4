# The image of limpet; docs/container.md says how it is run. `make image` puts together
# what is copied here, in dist/image/context, and makes the same image without docker:
# scripts/image reads this file. With docker it is
#
#   make image && docker build -f Dockerfile dist/image/context
FROM scratch
ARG TARGETARCH
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="limpet" \
      org.opencontainers.image.description="Kubernetes for the edge in one binary" \
      org.opencontainers.image.source="https://github.com/limpetio/limpet" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY ${TARGETARCH}/ /
ENV PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VOLUME ["/var/lib/limpet", "/var/lib/kubelet", "/var/log"]
EXPOSE 6443
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/limpet"]
CMD ["server"]
