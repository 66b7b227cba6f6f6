-- One row an inpatient stay: 1 if intensive care begins or the patient dies in the hours after the prediction time, else 0.
SELECT
    a.encounter_id,
    CASE
        WHEN bool_or(u.in_time > a.prediction_time AND u.in_time <= a.prediction_time + to_hours(a.window_hours)) THEN 1
        WHEN a.died_in_hospital AND a.died_at > a.prediction_time
            AND a.died_at <= a.prediction_time + to_hours(a.window_hours) THEN 1
        WHEN bool_or(u.encounter_id IS NOT NULL AND u.in_time IS NULL) THEN NULL
        ELSE 0
    END AS value,
    a.prediction_time AS index_time,
    a.prediction_time + to_hours(a.window_hours) AS horizon_end
FROM asked a
LEFT JOIN unit_stays u ON u.encounter_id = a.encounter_id AND u.unit_type = 'intensive_care'
GROUP BY a.encounter_id, a.prediction_time, a.window_hours, a.died_in_hospital, a.died_at
