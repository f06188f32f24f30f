-- Feature tables from raw tables, by DuckDB: raw.* in, features.* out.
--
-- The rule of this file: a row may use only what is known at its event_timestamp, the close of
-- its week (the last second of the date, UTC). A forecast made at that moment, its cut-off,
-- reads exactly that row, offline and online. So `lag 1` is the week that has just closed, and
-- `lag 52` is the week that closed 51 weeks before it: the same week last year as the first
-- week of the forecast.
--
-- Lags and windows count calendar weeks, not rows: series skip weeks, and one missing row would
-- otherwise shift every older one by a week. They are therefore taken over a grid that has each
-- week of each series, with null sales where there were none.


-- Holidays ---------------------------------------------------------------------------------
-- By rule, for any year: which week has which holiday. Weeks are named by their last day.

CREATE TEMP TABLE weeks AS
WITH span AS (
    SELECT min(date) AS first_week, max(date) AS last_week FROM raw.sales
)
SELECT first_week, last_week,
    unnest(generate_series(
        first_week - INTERVAL 53 WEEK, last_week + INTERVAL 105 WEEK, INTERVAL 1 WEEK
    ))::DATE AS week
FROM span;

CREATE TEMP MACRO on_or_after(day, weekday) AS   -- weekday: Sunday 0 ... Saturday 6
    (day + ((weekday - dayofweek(day) + 7) % 7)::INTEGER)::DATE;

CREATE TEMP TABLE holidays AS
WITH years AS (
    SELECT DISTINCT year(week) AS year FROM weeks
),
easter AS (   -- Gauss's rule, good for 1900 to 2099
    SELECT year, year % 19 AS golden, (19 * golden + 24) % 30 AS moon,
        (2 * (year % 4) + 4 * (year % 7) + 6 * moon + 5) % 7 AS sunday,
        sunday = 6 AND (moon = 29 OR (moon = 28 AND golden > 10)) AS a_week_early,
        make_date(year, 3, 22) + (moon + sunday - 7 * a_week_early::INTEGER)::INTEGER AS day
    FROM years
),
days AS (
    -- The first Sunday of February; the second since the season of 2021 has a week more.
    SELECT 'super_bowl' AS holiday,
        on_or_after(make_date(year, 2, if(year < 2022, 1, 8)), 0) AS day
    FROM years
    UNION ALL   -- the first Monday of September
    SELECT 'labor_day', on_or_after(make_date(year, 9, 1), 1) FROM years
    UNION ALL   -- the fourth Thursday of November
    SELECT 'thanksgiving', on_or_after(make_date(year, 11, 22), 4) FROM years
    UNION ALL
    SELECT 'christmas', make_date(year, 12, 25) FROM years
    UNION ALL   -- no holiday of Kaggle's: its weeks weigh nothing extra, but it moves sales
    SELECT 'easter', day FROM easter
)
SELECT days.holiday, weeks.week
FROM days
JOIN weeks ON days.day BETWEEN weeks.week - 6 AND weeks.week;

-- The name of the holiday of each week that Kaggle flags, '' for any other week.
CREATE TEMP TABLE named_weeks AS
SELECT weeks.week, coalesce(any_value(holidays.holiday), '') AS holiday
FROM weeks
LEFT JOIN holidays ON holidays.week = weeks.week AND holidays.holiday <> 'easter'
GROUP BY weeks.week;

CREATE TEMP MACRO close_of(week) AS
    (week + INTERVAL 1 DAY - INTERVAL 1 SECOND) AT TIME ZONE 'UTC';


-- Labels -----------------------------------------------------------------------------------
-- What is to be forecast. No feature view reads this table. An error in a holiday week weighs
-- five times as much, as in Kaggle's score.

CREATE TABLE features.labels AS
SELECT store, dept, close_of(date) AS event_timestamp, weekly_sales,
    if(is_holiday, 5.0, 1.0)::DOUBLE AS weight,
    holiday,
    created_timestamp
FROM raw.sales
JOIN named_weeks ON named_weeks.week = date
ORDER BY store, dept, event_timestamp;


-- Sales history ----------------------------------------------------------------------------

CREATE TEMP TABLE grid AS
WITH series AS (
    SELECT store, dept, min(date) AS first_week FROM raw.sales GROUP BY ALL
)
SELECT series.store, series.dept, weeks.week, sales.weekly_sales AS sales, sales.created_timestamp
FROM series
JOIN weeks ON weeks.week BETWEEN series.first_week AND weeks.last_week
LEFT JOIN raw.sales AS sales
    ON sales.store = series.store AND sales.dept = series.dept AND sales.date = weeks.week;

CREATE TABLE features.sales_history AS
WITH windows AS (
    SELECT *,
        -- Sales published late delay the rows that use them.
        max(created_timestamp) OVER last_56 AS latest_published,

        lag(sales, 0) OVER series AS sales_lag_1,
        lag(sales, 1) OVER series AS sales_lag_2,
        lag(sales, 3) OVER series AS sales_lag_4,
        lag(sales, 7) OVER series AS sales_lag_8,
        lag(sales, 51) OVER series AS sales_lag_52,

        -- Over the weeks of the window that have sales; null where none has.
        avg(sales) OVER last_4 AS sales_mean_4,
        stddev_pop(sales) OVER last_4 AS sales_std_4,
        avg(sales) OVER last_12 AS sales_mean_12,
        stddev_pop(sales) OVER last_12 AS sales_std_12,
        avg(sales) OVER last_52 AS sales_mean_52,
        avg(sales) OVER same_4_last_year AS mean_4_last_year,

        -- One column a step: step h forecasts the week that closes h weeks from now; a year
        -- before that was 52 - h weeks ago, which is known for any h up to 52.
        lag(sales, 51) OVER series AS sales_last_year_1,
        lag(sales, 50) OVER series AS sales_last_year_2,
        lag(sales, 49) OVER series AS sales_last_year_3,
        lag(sales, 48) OVER series AS sales_last_year_4,
        lag(sales, 47) OVER series AS sales_last_year_5,
        lag(sales, 46) OVER series AS sales_last_year_6,
        lag(sales, 45) OVER series AS sales_last_year_7,
        lag(sales, 44) OVER series AS sales_last_year_8,

        -- The mean of that week and its two neighbours, so up to 51 - h weeks ago.
        avg(sales) OVER (series ROWS BETWEEN 52 PRECEDING AND 50 PRECEDING)
            AS sales_around_last_year_1,
        avg(sales) OVER (series ROWS BETWEEN 51 PRECEDING AND 49 PRECEDING)
            AS sales_around_last_year_2,
        avg(sales) OVER (series ROWS BETWEEN 50 PRECEDING AND 48 PRECEDING)
            AS sales_around_last_year_3,
        avg(sales) OVER (series ROWS BETWEEN 49 PRECEDING AND 47 PRECEDING)
            AS sales_around_last_year_4,
        avg(sales) OVER (series ROWS BETWEEN 48 PRECEDING AND 46 PRECEDING)
            AS sales_around_last_year_5,
        avg(sales) OVER (series ROWS BETWEEN 47 PRECEDING AND 45 PRECEDING)
            AS sales_around_last_year_6,
        avg(sales) OVER (series ROWS BETWEEN 46 PRECEDING AND 44 PRECEDING)
            AS sales_around_last_year_7,
        avg(sales) OVER (series ROWS BETWEEN 45 PRECEDING AND 43 PRECEDING)
            AS sales_around_last_year_8
    FROM grid
    WINDOW
        series AS (PARTITION BY store, dept ORDER BY week),
        last_4 AS (series ROWS 3 PRECEDING),
        last_12 AS (series ROWS 11 PRECEDING),
        last_52 AS (series ROWS 51 PRECEDING),
        last_56 AS (series ROWS 55 PRECEDING),
        same_4_last_year AS (series ROWS BETWEEN 55 PRECEDING AND 52 PRECEDING)
)
SELECT * EXCLUDE (week, sales, created_timestamp, latest_published, mean_4_last_year),
    -- The last four weeks against the same four a year ago: 0.1 is 10% more. Cut at -1 and 9,
    -- since a mean of a few cents a year ago makes any growth look endless. (Without the test
    -- for null, least() would skip an unknown growth and answer 9.)
    CASE WHEN sales_mean_4 IS NOT NULL AND mean_4_last_year > 0
        THEN greatest(-1, least(sales_mean_4 / mean_4_last_year - 1, 9))::DOUBLE
    END AS sales_growth,
    close_of(week) AS event_timestamp,
    greatest(close_of(week), latest_published) AS created_timestamp
FROM windows
ORDER BY store, dept, event_timestamp;


-- Store externals --------------------------------------------------------------------------
-- Weather, prices and the economy as published for the week that has closed. For the weeks to
-- come none of it is known, whatever the raw table says of them.

CREATE TABLE features.store_external AS
SELECT store, temperature, fuel_price,
    markdown_1, markdown_2, markdown_3, markdown_4, markdown_5,
    cpi, unemployment, is_holiday,
    weekofyear(date) AS week_of_year,
    close_of(date) AS event_timestamp,
    created_timestamp
FROM raw.externals
ORDER BY store, event_timestamp;


-- Computed ---------------------------------------------------------------------------------
-- The transforms of the on-demand view `feature_transformations`, stored, so that neither
-- training nor serving computes them again. A change here is a change there; a test compares.

CREATE TABLE features.computed AS
SELECT store,
    (temperature - 60.0) / 20.0 AS temperature_normalized,
    if(
        is_holiday,
        coalesce(markdown_1, 0) + coalesce(markdown_2, 0) + coalesce(markdown_3, 0)
            + coalesce(markdown_4, 0) + coalesce(markdown_5, 0),
        0
    )::DOUBLE AS holiday_markdown_interaction,
    sin(2 * pi() * week_of_year / 52.0) AS seasonal_sine,
    cos(2 * pi() * week_of_year / 52.0) AS seasonal_cosine,
    event_timestamp,
    created_timestamp
FROM features.store_external
ORDER BY store, event_timestamp;


-- Store statics ----------------------------------------------------------------------------
-- Known before the first week of sales.

CREATE TABLE features.store_static AS
SELECT store, type AS store_type, size AS store_size,
    close_of(first_week - INTERVAL 52 WEEK) AS event_timestamp,
    event_timestamp AS created_timestamp
FROM raw.stores, (SELECT DISTINCT first_week FROM weeks)
ORDER BY store;


-- Calendar ---------------------------------------------------------------------------------
-- What is known of a week long before it comes, keyed by the week it is about ('2012-09-07').
-- A calendar counts as published two years (104 weeks) ahead.

CREATE TABLE features.calendar AS
WITH distances AS (
    SELECT weeks.week, holidays.holiday, (holidays.week - weeks.week) // 7 AS distance
    FROM weeks, holidays
    WHERE weeks.week BETWEEN first_week AND last_week + INTERVAL 52 WEEK
        AND abs(holidays.week - weeks.week) < 40 * 7
),
nearest AS (
    -- Weeks to the nearest holiday of each name: 3 is three weeks ahead, -1 was last week. Of
    -- two that are equally near the one ahead counts; -26 and 26 stand for anything farther.
    SELECT week, holiday,
        greatest(-26, least(26, arg_min(distance, 2 * abs(distance) + (distance < 0)::INTEGER)))
            AS distance
    FROM distances
    GROUP BY ALL
),
by_name AS (
    SELECT week,
        max(distance) FILTER (holiday = 'super_bowl') AS weeks_to_super_bowl,
        max(distance) FILTER (holiday = 'labor_day') AS weeks_to_labor_day,
        max(distance) FILTER (holiday = 'thanksgiving') AS weeks_to_thanksgiving,
        max(distance) FILTER (holiday = 'christmas') AS weeks_to_christmas,
        max(distance) FILTER (holiday = 'easter') AS weeks_to_easter
    FROM nearest
    GROUP BY week
)
SELECT strftime(by_name.week, '%Y-%m-%d') AS week,
    holiday <> '' AS is_holiday,
    holiday,
    weekofyear(by_name.week) AS week_of_year,
    month(by_name.week) AS month,
    sin(2 * pi() * week_of_year / 52.0) AS week_sine,
    cos(2 * pi() * week_of_year / 52.0) AS week_cosine,
    by_name.* EXCLUDE (week),
    close_of(by_name.week - INTERVAL 104 WEEK) AS event_timestamp,
    event_timestamp AS created_timestamp
FROM by_name
JOIN named_weeks ON named_weeks.week = by_name.week
ORDER BY week;
