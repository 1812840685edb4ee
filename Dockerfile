# The image that runs `flowspan watch`, or any other command of flowspan.
#
#   docker build --tag flowspan .
#   docker run --env PREFECT_API_URL=http://prefect:4200/api --volume watch:/var/lib/flowspan flowspan
#
# Settings are the variables PREFECT_API_*, OTEL_* and FLOWSPAN_*: see docs/watch.md.
#
# Test: tests/collector/test_compose.py

FROM python:3.12-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY collector ./collector
COPY examples/nyc_flights.py ./examples/nyc_flights.py
COPY src ./src
RUN python -m venv /opt/flowspan \
    && /opt/flowspan/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.12-slim
COPY --from=build /opt/flowspan /opt/flowspan
# Where flowspan watch keeps what is settled; a volume here survives the container.
RUN useradd --system --uid 10001 --home-dir /var/lib/flowspan --create-home flowspan
USER flowspan
WORKDIR /var/lib/flowspan
ENV PATH=/opt/flowspan/bin:$PATH \
    FLOWSPAN_WATCH_DIR=/var/lib/flowspan/watch \
    PREFECT_HOME=/var/lib/flowspan/prefect
ENTRYPOINT ["flowspan"]
CMD ["watch"]
