"""The statements that mine pairs: candidates of a prompt are judged by the rules, ranked, and paired.

Each makes a temporary table of the one before; `step` is the rule at which a row left. Prompts and candidates
go by numbers where their ids are not needed: joins of numbers are less work and less memory.
"""

from __future__ import annotations

from dataclasses import fields

from storage.mining.rules import (
    BASE,
    CANDIDATE_RULES,
    COPIES,
    OF_CANDIDATES,
    OF_FOOTAGE,
    OF_PAIRS,
    PAIR_RULES,
    PairRules,
)

# Steps count from 1 in the order of the rules; NULL is still in, _KEPT is a member of a pair.
STEP = {name: step for step, name in enumerate((*CANDIDATE_RULES, *PAIR_RULES), start=1)}
_KEPT = len(STEP) + 1
_FIRST_OF_PROMPT, _FIRST_OF_PAIR = STEP["fewer-than-two"], STEP[PAIR_RULES[0]]
# What a person decided about a pair. One byte a pair, of which there may be many millions.
_HUMAN = "ENUM('keep', 'drop', 'swap')"
# Only a bound above 0 asks for the measure to be known.
_ALL = tuple(dict.fromkeys(one.measure for one in (*OF_CANDIDATES, *OF_FOOTAGE, *OF_PAIRS)))
_MEASURES = ", ".join(_ALL)
_OF_PAIRS = ", ".join(dict.fromkeys(("motion", *(one.measure for one in OF_PAIRS))))
_FINITE_MEASURES = ", ".join(f"CASE WHEN isfinite({name}) THEN {name} END AS {name}" for name in _ALL)
_TOO_LITTLE = "\n".join(
    f"WHEN r.{one.field} > 0 AND m.has_{one.measure} "
    f"AND NOT coalesce(s.{one.measure} >= r.{one.field}, false) THEN {STEP[one.rule]}"
    for one in OF_CANDIDATES
)
# A comparison with NULL is no fault: what is not known of footage passes.
_TOO_MUCH = "\n".join(f"WHEN s.{one.measure} > r.{one.field} THEN {STEP[one.rule]}" for one in OF_FOOTAGE)
_WINNER_HAS_LESS = "\n".join(
    f"WHEN r.{one.field} > 0 AND m.has_{one.measure} "
    f"AND NOT coalesce(w.{one.measure} >= r.{one.field} * l.{one.measure}, false) "
    f"THEN {STEP[one.rule]}"
    for one in OF_PAIRS
)
_DETAILS = "\n".join(
    f"WHEN {STEP[one.rule]} THEN format('{one.measure} {{}}', coalesce({one.measure}::VARCHAR, 'unknown'))"
    for one in (*OF_CANDIDATES, *OF_FOOTAGE)
)
_TYPES = {"float": "DOUBLE", "int": "BIGINT"}
# Annotations are texts here; what is no number is a text.
_COLUMNS = ", ".join(
    f"${one.name}::{_TYPES.get(str(one.type), 'VARCHAR')} AS {one.name}" for one in fields(PairRules)
)

# Whether any score has a measure: a reward that does not make it is not bounded by it.
FILLED = f"""
    CREATE TEMP TABLE filled AS
    SELECT {", ".join(f"coalesce(bool_or(isfinite({name})), false) AS has_{name}" for name in _ALL)}
    FROM scores s JOIN rules r ON s.reward = r.reward AND s.reward_version = r.reward_version
"""

RULES = f"CREATE TEMP TABLE rules AS SELECT {_COLUMNS}"

NUMBERED = """
    CREATE TEMP TABLE numbered AS
    SELECT row_number() OVER () AS prompt, prompt_id, scene_id, split, text FROM prompts
"""

# What compares: a rate of 29.97 frames a second is one of 30.
FORMATS = """
    CREATE TEMP TABLE formats AS
    SELECT row_number() OVER () AS format, * FROM (
        SELECT DISTINCT height, width, num_frames, round(fps) AS rate FROM candidates)
"""

# A prompt that no row describes has no number.
JUDGED = f"""
    CREATE TEMP TABLE judged AS
    WITH usable AS (
        SELECT s.candidate_id, s.value, s.reason, {_FINITE_MEASURES}
        FROM scores s JOIN rules r ON s.reward = r.reward AND s.reward_version = r.reward_version)
    SELECT c.candidate_id, p.prompt, f.format, coalesce(c.adapter, '{BASE}') AS adapter, s.value,
        coalesce(c.reason, s.reason) AS reason, {_MEASURES},
        CASE
            WHEN c.status <> 'ok' THEN {STEP["sampling-failed"]}
            WHEN s.candidate_id IS NULL THEN {STEP["not-scored"]}
            WHEN s.value IS NULL OR NOT isfinite(s.value) THEN {STEP["unscorable"]}
            {_TOO_LITTLE}
            {_TOO_MUCH}
        END AS step
    FROM candidates c
    CROSS JOIN rules r
    CROSS JOIN filled m
    JOIN formats f
        ON f.height = c.height AND f.width = c.width AND f.num_frames = c.num_frames AND f.rate = round(c.fps)
    LEFT JOIN numbered p ON p.prompt_id = c.prompt_id
    LEFT JOIN usable s ON s.candidate_id = c.candidate_id
    WHERE (p.prompt IS NULL OR r.split IS NULL OR p.split = r.split)
        AND (r.adapter IS NULL OR coalesce(c.adapter, '{BASE}') = r.adapter)
"""

# Scored before footage was measured: there are always bars since, if of no width.
UNMEASURED = f"""
    SELECT count(*) FROM judged WHERE bars IS NULL AND (step IS NULL OR step > {STEP["unscorable"]})
"""

ADAPTERS = "SELECT count(DISTINCT adapter) FROM judged WHERE step IS NULL"

ORPHANS = "SELECT count(*), min(candidate_id) FROM judged WHERE prompt IS NULL"

RANKED = f"""
    CREATE TEMP TABLE ranked AS
    WITH placed AS (
        SELECT rowid AS candidate, candidate_id, prompt, format, value, {_OF_PAIRS},
            count(*) OVER (PARTITION BY prompt) AS n_of_prompt,
            count(*) OVER (PARTITION BY prompt, format) AS n,
            row_number() OVER (PARTITION BY prompt, format ORDER BY value DESC, candidate_id) AS place
        FROM judged WHERE step IS NULL)
    SELECT k.*,
        CASE r.strategy WHEN 'best-worst' THEN place = 1
            WHEN 'top-k' THEN place <= least(r.top_k, n // 2) ELSE true END AS may_win,
        CASE r.strategy WHEN 'best-worst' THEN place = n
            WHEN 'top-k' THEN place > n - least(r.top_k, n // 2) ELSE true END AS may_lose
    FROM placed k CROSS JOIN rules r
"""

PROPOSED = f"""
    CREATE TEMP TABLE proposed AS
    SELECT w.prompt, w.candidate AS winner, l.candidate AS loser,
        w.candidate_id AS winner_id, l.candidate_id AS loser_id,
        w.value AS winner_value, l.value AS loser_value, w.value - l.value AS gap,
        w.motion AS winner_motion, l.motion AS loser_motion, NULL::{_HUMAN} AS human,
        CASE
            WHEN -w.value > r.max_error THEN {STEP["max-error"]}
            WHEN w.value - l.value <= 0 OR w.value - l.value < r.min_gap THEN {STEP["min-gap"]}
            WHEN isfinite(r.max_motion_ratio) AND m.has_motion AND NOT coalesce(
                w.motion <= r.max_motion_ratio * l.motion AND l.motion <= r.max_motion_ratio * w.motion,
                false) THEN {STEP["motion-ratio"]}
            {_WINNER_HAS_LESS}
        END AS step
    FROM (SELECT * FROM ranked WHERE may_win) w
    JOIN (SELECT * FROM ranked WHERE may_lose) l
        ON l.prompt = w.prompt AND l.format = w.format AND l.place > w.place
    CROSS JOIN rules r
    CROSS JOIN filled m
"""

# Only of pairs that passed all else: thumbnails are long. Without one on both sides a pair passes.
COPIED = f"""
    UPDATE proposed SET step = {STEP[COPIES]}
    FROM (
        SELECT q.winner, q.loser FROM proposed q
        CROSS JOIN rules r
        JOIN scores w ON w.candidate_id = q.winner_id AND w.reward = r.reward
            AND w.reward_version = r.reward_version
        JOIN scores l ON l.candidate_id = q.loser_id AND l.reward = r.reward
            AND l.reward_version = r.reward_version
        WHERE q.step IS NULL AND len(w.thumbnail) = len(l.thumbnail)
            AND list_distance(w.thumbnail::FLOAT[], l.thumbnail::FLOAT[]) / sqrt(len(w.thumbnail))
                < r.min_difference * list_stddev_pop(w.thumbnail)) c
    WHERE proposed.winner = c.winner AND proposed.loser = c.loser
"""

# A candidate is lost where the furthest of its pairs was.
FATES = f"""
    CREATE TEMP TABLE fates AS
    WITH members AS (
        SELECT winner AS candidate, step FROM proposed
        UNION ALL SELECT loser, step FROM proposed),
    reached AS (
        SELECT candidate, max(coalesce(step, {_KEPT})) AS step FROM members GROUP BY candidate)
    SELECT candidate, k.prompt,
        CASE WHEN k.n_of_prompt < 2 THEN {STEP["fewer-than-two"]}
            WHEN k.n < 2 THEN {STEP["other-format"]}
            ELSE coalesce(m.step, {STEP["not-chosen"]}) END AS step
    FROM ranked k LEFT JOIN reached m USING (candidate)
    UNION ALL
    SELECT rowid, prompt, step FROM judged WHERE step IS NOT NULL
"""

LAST_STEPS = "CREATE TEMP TABLE last_steps AS SELECT prompt, max(step) AS step FROM fates GROUP BY prompt"

LOSSES = """
    WITH lost_prompts AS (SELECT step, count(*) AS prompts FROM last_steps GROUP BY step),
    lost_candidates AS (SELECT step, count(*) AS candidates FROM fates GROUP BY step)
    SELECT step, coalesce(candidates, 0), coalesce(prompts, 0)
    FROM lost_candidates FULL JOIN lost_prompts USING (step)
"""

KEPT = f"""
    SELECT (SELECT count(*) FROM proposed WHERE step IS NULL),
        (SELECT count(*) FROM last_steps WHERE step = {_KEPT}),
        (SELECT max(gap) FROM proposed WHERE step IS NULL)
"""

# Rows of the pairs table without its tensors. The id names the two candidates and what judged them: the
# reward, and a person where one did (an absent word leaves no trace in the id).
PAIRS = """
    SELECT substr(sha256(concat_ws('|', winner_id, loser_id, r.reward, r.reward_version, human)), 1, 32)
            AS pair_id,
        p.prompt_id, p.scene_id, p.split, p.text, winner_id, loser_id, winner_value, loser_value, gap,
        r.reward, r.reward_version, winner_motion, loser_motion, c.model, c.revision, c.num_frames,
        human::VARCHAR AS human
    FROM (SELECT * FROM proposed WHERE step IS NULL) q
    CROSS JOIN rules r
    JOIN candidates c ON c.candidate_id = q.winner_id
    JOIN numbered p ON p.prompt = q.prompt
    ORDER BY pair_id
"""

# A candidate that broke a rule of its own; a prompt that lost its last pair, with the pair that came closest.
REJECTS = f"""
    WITH lost AS (
        SELECT prompt, step FROM last_steps WHERE step >= {_FIRST_OF_PAIR} AND step < {_KEPT}),
    closest AS (
        SELECT q.* FROM proposed q SEMI JOIN lost ON lost.prompt = q.prompt AND lost.step = q.step
        QUALIFY row_number() OVER (PARTITION BY q.prompt ORDER BY gap DESC, winner_id, loser_id) = 1),
    listed AS (
        SELECT candidate_id AS id, step, CASE step
            WHEN {STEP["not-scored"]} THEN 'no score by this version of the reward'
            {_DETAILS}
            ELSE coalesce(reason, format('value {{}}', value), 'no value, no reason') END AS detail
        FROM judged WHERE step IS NOT NULL
        UNION ALL
        SELECT p.prompt_id, {_FIRST_OF_PROMPT}, 'one candidate left'
        FROM ranked k JOIN numbered p USING (prompt) WHERE k.n_of_prompt < 2
        UNION ALL
        SELECT k.candidate_id, {STEP["other-format"]},
            format('{{}}x{{}}, {{}} frames at {{}} a second', f.width, f.height, f.num_frames, f.rate::INT)
        FROM ranked k JOIN formats f USING (format) WHERE k.n < 2 AND k.n_of_prompt > 1
        UNION ALL
        SELECT p.prompt_id, q.step,
            format('winner {{}} loser {{}}: winner error {{:.6g}}, gap {{:.6g}}, motions {{}} and {{}}',
                winner_id, loser_id, -winner_value, gap,
                coalesce(winner_motion::VARCHAR, 'unknown'), coalesce(loser_motion::VARCHAR, 'unknown'))
        FROM closest q JOIN numbered p USING (prompt))
    SELECT 'pair' AS stage, id, $names[step] AS rule, detail FROM listed ORDER BY id, rule
"""
