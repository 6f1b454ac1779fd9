/* DALEC2 (CARDAMOM model 400, "DALEC-CDEA with fires") in plain C: the compiled peer of the benchmarks.
 *
 * Written from the published equations (Williams et al. 1997; Bloom & Williams 2015; Bloom et al. 2016), not from
 * any other program's text. Pools are gC m-2, fluxes gC m-2 d-1, temperatures degC, radiation MJ m-2 d-1, CO2 ppm,
 * latitude degrees, time and time step days.
 *
 * met      (n, 7)    time, daily minimum and maximum temperature, shortwave, CO2, day of year, burned fraction
 * p        (23)      parameters in CARDAMOM's order (enum below)
 * pools    (n+1, 6)  labile, foliar, root, wood, litter, soil organic matter; row 0 is the initial state
 * nee, gpp, lai (n)  net exchange with fire (positive to the atmosphere), photosynthesis, leaf area at the step's start
 *
 * dalec400()          computes every term in the step where it is used, as the established C programs do.
 * dalec400_prepare()  computes once what only the drivers decide, and
 * dalec400_hoisted()  uses it: the best that plain C does for many parameter vectors at one site.
 */
#include <math.h>

enum { TIME, TMIN, TMAX, SHORTWAVE, CO2, DOY, BURNED, N_MET };
enum {
    LITTER_TO_SOM, F_AUTO, F_FOLIAR, F_ROOT, LEAF_LIFESPAN, T_WOOD, T_ROOT, T_LITTER, T_SOM, THETA, C_EFF,
    D_ONSET, F_LABILE, CR_ONSET, D_FALL, CR_FALL, LMA, POOLS_0
};
enum { LABILE, FOLIAR, ROOT, WOOD, LITTER, SOM, N_POOLS };
/* What dalec400_prepare() keeps of a step. */
enum { P_DAYLENGTH, P_GC, P_TMEAN, P_WARMTH, P_SIN, P_COS, N_PREPARED };

/* CARDAMOM writes pi with seven decimals; the true value changes results at 1e-8. */
static const double PI = 3.1415927;
static const double YEAR = 365.25;
static const double COMBUSTED[N_POOLS] = {0.1, 0.9, 0.1, 0.1, 0.5, 0.01};
static const double RESILIENCE = 0.5;

/* A yearly pulse of leaf release or leaf fall: height, inverse width and the shift of its peak. */
typedef struct { double height, inverse_width, shift; } pulse_shape;

static pulse_shape make_pulse(double lifespan, double period, double day)
{
    double width = period * sqrt(2.0) / 2.0;
    double l = log(lifespan - 1.0);
    double offset = 0.000023599784710;
    offset = offset * l + 0.000332730053021;
    offset = offset * l + 0.000901865258885;
    offset = offset * l - 0.005437736864888;
    offset = offset * l - 0.020836027517787;
    offset = offset * l + 0.126972018064287;
    offset = offset * l - 0.188459767342504;
    double f = (log(lifespan) - l) / 2.0;
    pulse_shape shape = {2.0 / sqrt(PI) * f / width, YEAR / PI / width, width * offset - day};
    return shape;
}

static double pulse(pulse_shape shape, double t)
{
    double s = sin((t + shape.shift) * (PI / YEAR)) * shape.inverse_width;
    return shape.height * exp(-s * s);
}

/* Day-length factor of the aggregated canopy model. */
static double daylength_factor(double lat, double doy)
{
    double declination = -23.4 * cos(360.0 * (doy + 10.0) / 365.0 * PI / 180.0) * PI / 180.0;
    double m = tan(lat * PI / 180.0) * tan(declination);
    double hours = m >= 1.0 ? 24.0 : m <= -1.0 ? 0.0 : 24.0 * acos(-m) / PI;
    return 0.0156935 * hours + 0.0453194;
}

static double conductance(double tmin, double tmax)
{
    return pow(2.0, 0.789798) / (0.37836 + 0.5 * (tmax - tmin));
}

/* Photosynthesis of the aggregated canopy model for leaf area index `leaf`; `warmth` = exp(a2 Tmax). */
static double photosynthesis(double leaf, double c_eff, double gc, double warmth, double shortwave, double co2,
                             double daylength)
{
    if (leaf <= 0.0) return 0.0; /* the formula is 0/0 there */
    const double theta = 4.22273, k = 208.868;
    double p = leaf / gc * c_eff * warmth;
    double q = theta - k;
    double b = co2 + q - p;
    double ci = 0.5 * (b + sqrt(b * b - 4.0 * (co2 * q - p * theta)));
    double e0 = 7.19298 * leaf * leaf / (leaf * leaf + 2.1001);
    double light = e0 * shortwave, supply = gc * (co2 - ci);
    return light * supply / (light + supply) * daylength;
}

/* Fraction r lost over a step, as a mean daily rate. */
static double daily(double r, double dt)
{
    return (1.0 - pow(1.0 - r, dt)) / dt;
}

/* Advance the pools by one step from `x` to `y`; returns NEE. `rate` holds the daily loss rates. */
enum { R_ONSET, R_FALL, R_WOOD, R_ROOT, R_LITTER, R_SOM, R_TO_SOM, N_RATES };

static inline double advance(const double *p, const double *x, double *y, const double *rate, double gpp, double burned,
                             double dt)
{
    double autotrophic = p[F_AUTO] * gpp;
    double npp = gpp - autotrophic;
    double to_foliar = npp * p[F_FOLIAR];
    double to_labile = (npp - to_foliar) * p[F_LABILE];
    double to_root = (npp - to_foliar - to_labile) * p[F_ROOT];
    double to_wood = npp - to_foliar - to_root - to_labile;
    double release = x[LABILE] * rate[R_ONSET];
    double leaf_litter = x[FOLIAR] * rate[R_FALL];
    double wood_litter = x[WOOD] * rate[R_WOOD];
    double root_litter = x[ROOT] * rate[R_ROOT];
    double from_litter = x[LITTER] * rate[R_LITTER];
    double from_som = x[SOM] * rate[R_SOM];
    double litter_to_som = x[LITTER] * rate[R_TO_SOM];

    y[LABILE] = x[LABILE] + (to_labile - release) * dt;
    y[FOLIAR] = x[FOLIAR] + (to_foliar - leaf_litter + release) * dt;
    y[ROOT] = x[ROOT] + (to_root - root_litter) * dt;
    y[WOOD] = x[WOOD] + (to_wood - wood_litter) * dt;
    y[LITTER] = x[LITTER] + (leaf_litter + root_litter - from_litter - litter_to_som) * dt;
    y[SOM] = x[SOM] + (litter_to_som - from_som + wood_litter) * dt;

    double fire = 0.0;
    if (burned > 0.0) {
        double dead[N_POOLS];
        for (int i = 0; i < N_POOLS; i++) {
            double burnt = y[i] * burned * COMBUSTED[i];
            dead[i] = i == SOM ? 0.0 : y[i] * burned * (1.0 - COMBUSTED[i]) * (1.0 - RESILIENCE);
            fire += burnt / dt;
            y[i] -= burnt + dead[i];
        }
        y[LITTER] += dead[LABILE] + dead[FOLIAR] + dead[ROOT];
        y[SOM] += dead[WOOD] + dead[LITTER];
    }
    return -gpp + autotrophic + from_litter + from_som + fire;
}

void dalec400(const double *met, long n, const double *p, double lat, double dt, double *pools, double *nee, double *gpp,
              double *lai)
{
    pulse_shape onset = make_pulse(1.001, p[CR_ONSET], p[D_ONSET]);
    pulse_shape fall = make_pulse(p[LEAF_LIFESPAN], p[CR_FALL], p[D_FALL]);
    for (int i = 0; i < N_POOLS; i++) pools[i] = p[POOLS_0 + i];
    for (long j = 0; j < n; j++) {
        const double *m = met + j * N_MET, *x = pools + j * N_POOLS;
        double temperature = exp(p[THETA] * 0.5 * (m[TMAX] + m[TMIN]));
        double rate[N_RATES] = {
            daily(pulse(onset, m[TIME]), dt),         daily(pulse(fall, m[TIME]), dt),
            daily(p[T_WOOD], dt),                     daily(p[T_ROOT], dt),
            daily(temperature * p[T_LITTER], dt),     daily(temperature * p[T_SOM], dt),
            daily(temperature * p[LITTER_TO_SOM], dt)};
        lai[j] = x[FOLIAR] / p[LMA];
        gpp[j] = photosynthesis(lai[j], p[C_EFF], conductance(m[TMIN], m[TMAX]), exp(0.011136 * m[TMAX]), m[SHORTWAVE],
                                m[CO2], daylength_factor(lat, m[DOY]));
        nee[j] = advance(p, x, pools + (j + 1) * N_POOLS, rate, gpp[j], m[BURNED], dt);
    }
}

void dalec400_prepare(const double *met, long n, double lat, double *prepared)
{
    for (long j = 0; j < n; j++) {
        const double *m = met + j * N_MET;
        double *out = prepared + j * N_PREPARED;
        out[P_DAYLENGTH] = daylength_factor(lat, m[DOY]);
        out[P_GC] = conductance(m[TMIN], m[TMAX]);
        out[P_TMEAN] = 0.5 * (m[TMAX] + m[TMIN]);
        out[P_WARMTH] = exp(0.011136 * m[TMAX]);
        out[P_SIN] = sin(m[TIME] * (PI / YEAR));
        out[P_COS] = cos(m[TIME] * (PI / YEAR));
    }
}

/* (1 - r)^1 needs no pow. */
static inline double daily_or_step(double r, double dt)
{
    return dt == 1.0 ? r : daily(r, dt);
}

void dalec400_hoisted(const double *met, const double *prepared, long n, const double *p, double dt, double *pools,
                      double *nee, double *gpp, double *lai)
{
    pulse_shape onset = make_pulse(1.001, p[CR_ONSET], p[D_ONSET]);
    pulse_shape fall = make_pulse(p[LEAF_LIFESPAN], p[CR_FALL], p[D_FALL]);
    /* sin(t + shift) by the addition theorem: no sine in the loop. */
    double onset_sin = sin(onset.shift * (PI / YEAR)) * onset.inverse_width;
    double onset_cos = cos(onset.shift * (PI / YEAR)) * onset.inverse_width;
    double fall_sin = sin(fall.shift * (PI / YEAR)) * fall.inverse_width;
    double fall_cos = cos(fall.shift * (PI / YEAR)) * fall.inverse_width;
    double wood = daily(p[T_WOOD], dt), root = daily(p[T_ROOT], dt), per_lma = 1.0 / p[LMA];
    for (int i = 0; i < N_POOLS; i++) pools[i] = p[POOLS_0 + i];
    for (long j = 0; j < n; j++) {
        const double *m = met + j * N_MET, *d = prepared + j * N_PREPARED, *x = pools + j * N_POOLS;
        double temperature = exp(p[THETA] * d[P_TMEAN]);
        double a = d[P_SIN] * onset_cos + d[P_COS] * onset_sin, b = d[P_SIN] * fall_cos + d[P_COS] * fall_sin;
        double rate[N_RATES] = {
            daily_or_step(onset.height * exp(-a * a), dt),    daily_or_step(fall.height * exp(-b * b), dt),
            wood,                                             root,
            daily_or_step(temperature * p[T_LITTER], dt),     daily_or_step(temperature * p[T_SOM], dt),
            daily_or_step(temperature * p[LITTER_TO_SOM], dt)};
        lai[j] = x[FOLIAR] * per_lma;
        gpp[j] = photosynthesis(lai[j], p[C_EFF], d[P_GC], d[P_WARMTH], m[SHORTWAVE], m[CO2], d[P_DAYLENGTH]);
        nee[j] = advance(p, x, pools + (j + 1) * N_POOLS, rate, gpp[j], m[BURNED], dt);
    }
}
