-- One row an inpatient stay: 1 if an emergency visit begins after the prediction time and within the horizon, else 0.
SELECT
    a.encounter_id,
    CASE
        WHEN a.discharge_time IS NULL OR (SELECT count(*) FROM encounters WHERE encounter_class = 'emergency') = 0 THEN NULL
        ELSE count(e.encounter_id) > 0
    END::INTEGER AS value
FROM asked a
LEFT JOIN encounters e
    ON e.patient_id = a.patient_id
    AND e.encounter_class = 'emergency'
    AND e.admit_time > coalesce(a.prediction_time, a.discharge_time)
    AND e.admit_time <= a.discharge_time + to_days(a.horizon_days)
GROUP BY a.encounter_id, a.discharge_time
