-- What PostgreSQL knows of one name, and the one statement that changes it. Run for each request of a session (_postgres.py).
--
-- A session is a process's share, and one connection. What it says of itself are advisory locks that the connection holds: their first
-- number says what it is (a class, made of the name), their second is the value. They are shared, so that nobody ever waits for one; they
-- last from one transaction to the next, and go with the connection, whatever ends it.
--
--   member    always; the value is made of the name as well, so that two names are told apart by 64 bits
--   held      how many permits it holds; none for 0
--   wants     how many more it waits for; none if it does not wait
--   bound     its limit
--   arrival   since when it has been waiting; only if it waits
--   until     when it is late, unless it has said something by then
--
-- Times are this server's milliseconds, of which there are the last 32 bits. A lock that lasts no longer than the transaction lets one
-- request after the other do its work. Whoever comes next sees what has been changed: pg_locks is no table, and shows what is. The parts
-- have to run in their order, whatever the plan: each needs something of the one before, `lock` by a column of `mutex` in a subquery that
-- OFFSET keeps apart. All of them have one row, or are in an aggregate that has one, so that none is left out.
--
-- A session grants to itself what is its own: of the free permits one after the other goes to who holds least, then to who has waited
-- longest. Those that are others' stay free until they come for them: they are called, once by each session that has not called them or
-- heard them called. Who does not come is absent, and does not count as waiting: that is decided by each session for itself.
--
-- $1 lock for the transaction; $2 to $7 classes of member, held, wants, bound, arrival, until; $8 value of member; $9 channel; $10 how many
-- permits the session keeps of those that it held; $11 how many more it wants; $12 its limit; $13 whether it leaves; $14 milliseconds until
-- it is late; $15 sessions that have been called, $16 those that are absent. A session is written as its process id, a colon and `until`:
-- it is another one when it has said something.
-- Answer: how many it held before, how many it has gained, fencing token (0: none), how many other sessions wait, the least that one of
-- these holds, total, sessions, this server's microseconds; a slash, and the sessions that can come for a permit, and those that are
-- absent; a slash, and those that are late.
-- Message: microseconds, how many sessions wait, the least that one of these holds, total, sessions; a slash, and the sessions that are
-- called.

WITH RECURSIVE
mutex AS MATERIALIZED (
  SELECT pg_advisory_xact_lock($1::bigint) IS NOT NULL AS is_taken
),
lock AS MATERIALIZED (
  SELECT entry.*
  FROM mutex CROSS JOIN LATERAL (
    SELECT pid, classid, objid::bigint AS value
    FROM pg_locks
    WHERE mutex.is_taken AND locktype = 'advisory' AND objsubid = 2 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    OFFSET 0
  ) AS entry
),
now AS MATERIALIZED (
  SELECT us, us / 1000 & 4294967295 AS ms
  FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us FROM mutex WHERE is_taken OFFSET 0) AS clock
),
session AS MATERIALIZED (
  SELECT pid,
    coalesce(max(value) FILTER (WHERE classid = $3::int::oid), 0) AS held,
    coalesce(max(value) FILTER (WHERE classid = $4::int::oid), 0) AS wants,
    coalesce(max(value) FILTER (WHERE classid = $5::int::oid), 0) AS bound,
    coalesce(max(value) FILTER (WHERE classid = $6::int::oid), 0) AS arrival,
    coalesce(max(value) FILTER (WHERE classid = $7::int::oid), 0) AS until
  FROM lock
  GROUP BY pid
  HAVING bool_or(classid = $2::int::oid AND value = $8::int::oid::bigint)
),
other AS MATERIALIZED (
  SELECT pid, held, bound, name, is_absent, is_late, waited, CASE WHEN is_absent THEN 0 ELSE wants END AS wants
  FROM session, now,
    LATERAL (SELECT concat_ws(':', pid, until) AS name) AS named,
    LATERAL (
      SELECT name = ANY (string_to_array($16, ' ')) AS is_absent, (until - ms) & 4294967295 > 2147483647 AS is_late,
        (ms - arrival) & 4294967295 AS waited
    ) AS made
  WHERE pid <> pg_backend_pid()
),
-- The asking session as it was, and how things stand when it has given back what it does not keep.
own AS MATERIALIZED (
  SELECT us, ms, former.*, others,
    others + $10::bigint AS total,
    greatest(0, $12::bigint - others - $10::bigint) AS free,
    CASE WHEN wants > 0 AND held = $10::bigint THEN arrival ELSE ms END AS place
  FROM now
    CROSS JOIN (SELECT coalesce(sum(held), 0)::bigint AS others FROM other) AS sum
    CROSS JOIN (
      SELECT coalesce(max(held), 0) AS held, coalesce(max(wants), 0) AS wants, coalesce(max(bound), 0) AS bound,
        coalesce(max(arrival), 0) AS arrival, coalesce(max(until), 0) AS until, count(*) > 0 AS is_member
      FROM session WHERE pid = pg_backend_pid()
    ) AS former
),
-- How many are its own: between `low` and `high`, in fewer and fewer steps. With so many for it, those that come before are served as well:
-- who holds less, and of those that hold as much who has waited longer.
search (low, high) AS (
  SELECT 0::bigint, CASE WHEN EXISTS (SELECT FROM other WHERE wants > 0) THEN least($11::bigint, free) ELSE 0 END
  FROM own
UNION ALL
  SELECT CASE WHEN fits THEN middle ELSE low END, CASE WHEN fits THEN high ELSE middle - 1 END
  FROM (
    SELECT low, high, middle, middle + (
      SELECT coalesce(sum(greatest(0, least(
        other.wants,
        other.bound - total,
        $10::bigint + middle - 1 - other.held
          + ((waited, -pid) > ((ms - place) & 4294967295, -pg_backend_pid()))::int
      ))), 0)
      FROM other WHERE other.wants > 0
    ) <= free AS fits
    FROM (SELECT low, high, (low + high + 1) / 2 AS middle FROM search WHERE low < high) AS halved, own
  ) AS tried
),
-- What is left is the session's as well, if no other may have it: all others have lower limits.
gain AS MATERIALIZED (
  SELECT CASE
    WHEN EXISTS (SELECT FROM other WHERE wants > 0 AND bound > total + share) THEN share
    ELSE least($11::bigint, free)
  END AS count
  FROM own, (SELECT max(low) AS share FROM search) AS found
),
after AS MATERIALIZED (
  SELECT $10::bigint + count AS held, $11::bigint - count AS wants, total + count AS total, count,
    CASE WHEN count > 0 THEN ms ELSE place END AS place,
    CASE WHEN count > 0 THEN us ELSE 0 END AS fence
  FROM own, gain
),
change AS MATERIALIZED (
  SELECT field.*
  FROM own, after,
    -- Each time a later one.
    LATERAL (SELECT CASE
      WHEN is_member AND (own.until - ms - $14::bigint) & 4294967295 < 2147483648 THEN own.until + 1 ELSE ms + $14::bigint
    END & 4294967295 AS late) AS made,
    LATERAL (VALUES
    ($2::int, CASE WHEN is_member THEN $8::int::oid::bigint END, CASE WHEN NOT $13 THEN $8::int::oid::bigint END),
    ($3::int, nullif(own.held, 0), nullif(after.held, 0)),
    ($4::int, nullif(own.wants, 0), nullif(after.wants, 0)),
    ($5::int, nullif(own.bound, 0), CASE WHEN NOT $13 THEN $12::bigint END),
    ($6::int, CASE WHEN own.wants > 0 THEN own.arrival END, CASE WHEN after.wants > 0 THEN after.place END),
    ($7::int, CASE WHEN is_member THEN own.until END, CASE WHEN NOT $13 THEN late END)
  ) AS field (class, former, value)
  WHERE former IS DISTINCT FROM value
),
-- First what is new: that may fail, where the server's table of locks is full.
taken AS MATERIALIZED (
  SELECT count(pg_advisory_lock_shared(class, value::bit(32)::int)) AS count FROM change WHERE value IS NOT NULL
),
freed AS MATERIALIZED (
  SELECT count(pg_advisory_unlock_shared(class, former::bit(32)::int)) AS count
  FROM change, taken WHERE former IS NOT NULL
),
-- How the others stand now. What is free for them counts as theirs: it is as good as given.
standing AS MATERIALIZED (
  SELECT count(*) AS waiting, min(held) AS least_now, max(bound) AS bound,
    min(held) + greatest(0, max(bound) - max(total)) / nullif(count(*), 0) AS least_soon,
    (SELECT count(*) + (NOT $13)::int FROM other) AS sessions
  FROM (SELECT other.*, after.total FROM other, after WHERE other.wants > 0) AS waits
),
-- Who would gain now. Of these there are no more than permits that are free.
first AS MATERIALIZED (
  SELECT name
  FROM after, (
    SELECT other.*
    FROM after, other
    WHERE other.wants > 0 AND other.bound > after.total
    ORDER BY other.held, waited DESC, pid
    LIMIT (SELECT greatest(0, least(300, standing.bound - after.total)) FROM standing, after)
  ) AS next
  WHERE next.bound - after.total > (
    SELECT coalesce(sum(greatest(0, least(
      before.wants,
      before.bound - after.total,
      next.held - before.held + ((before.waited, -before.pid) > (next.waited, -next.pid))::int
    ))), 0)
    FROM (
      SELECT pid, held, wants, bound, waited FROM other
      UNION ALL
      SELECT pg_backend_pid(), held, wants, $12::bigint, (ms - after.place) & 4294967295 FROM after, now
    ) AS before
    WHERE before.wants > 0 AND before.pid <> next.pid
  )
),
called AS MATERIALIZED (
  SELECT string_agg(name, ' ') AS names FROM first WHERE name <> ALL (string_to_array($15, ' '))
),
-- Who holds permits has to know when somebody comes to wait who holds less than all that did, or when a limit has fallen.
told AS MATERIALIZED (
  SELECT count(pg_notify($9, concat_ws(' ',
    us, waiting + waits, coalesce(least(least_soon, own_least), 0), after.total, sessions, '/', names
  ))) AS count
  FROM own, after, standing, called,
    LATERAL (SELECT (after.wants > 0)::int AS waits, CASE WHEN after.wants > 0 THEN after.held END AS own_least) AS itself
  WHERE names IS NOT NULL
    OR own_least < least(least_now, CASE WHEN own.wants > 0 THEN own.held END, 4294967296)
    OR ($12::bigint < own.bound AND after.total > $12::bigint)
)
SELECT concat_ws(' ',
  own.held, after.count, fence, waiting, coalesce(least_soon, 0), after.total, sessions, us,
  '/', (SELECT string_agg(name, ' ') FROM (SELECT name FROM first UNION SELECT name FROM other WHERE is_absent) AS known),
  '/', (SELECT string_agg(name, ' ') FROM other WHERE is_late)
)
FROM own, after, standing, taken, freed, told
