-- One row an inpatient stay: 0 if it ended at home, 1 if elsewhere, null where that is not known.
SELECT
    encounter_id,
    CASE
        WHEN discharge_time IS NULL THEN NULL
        WHEN list_contains(home, disposition) THEN 0
        WHEN list_contains(elsewhere, disposition) THEN 1
    END AS value
FROM asked
