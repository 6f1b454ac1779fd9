! A small land model: carbon in plants and in soil, and a bucket of water, day by day.
!
! Reads land.nml (namelists &vegetation, &soil, &start) and forcing.txt (temperature [degC], radiation [MJ m-2 d-1], rain [mm d-1])
! in the working directory, and writes fluxes.txt (nee [gC m-2 d-1], positive to the atmosphere, and evapotranspiration [mm d-1]).
!
! It can be made to fail, to practise with: LAND_CRASH and LAND_HANG in the environment are the shares of runs that crash and that
! hang; which ones is decided by their parameters. LAND_LOG names a folder where each run leaves a file with its parameters.
program land
  use, intrinsic :: iso_fortran_env, only: real64, error_unit
  implicit none
  real(real64) :: light_use_efficiency, biomass_turnover, soil_turnover, q10, bucket_depth, evaporation, biomass_0, carbon_0
  real(real64) :: biomass, carbon, water, temperature, radiation, rain
  real(real64) :: wetness, gpp, litter, respiration, evapotranspiration
  integer :: forcing, fluxes, status
  namelist /vegetation/ light_use_efficiency, biomass_turnover
  namelist /soil/ soil_turnover, q10, bucket_depth, evaporation
  namelist /start/ biomass_0, carbon_0

  open (newunit=forcing, file='land.nml', status='old', action='read')
  read (forcing, nml=vegetation)
  read (forcing, nml=soil)
  read (forcing, nml=start)
  close (forcing)
  call misbehave([light_use_efficiency, biomass_turnover, soil_turnover, q10, bucket_depth])

  biomass = biomass_0
  carbon = carbon_0
  water = 0.5_real64 * bucket_depth
  open (newunit=forcing, file='forcing.txt', status='old', action='read')
  open (newunit=fluxes, file='fluxes.txt', status='replace', action='write')
  do
    read (forcing, *, iostat=status) temperature, radiation, rain
    if (status /= 0) exit
    wetness = water / bucket_depth
    ! Leaves are a tenth of the biomass, with 50 gC in each square metre of them.
    gpp = light_use_efficiency * radiation * (1.0_real64 - exp(-0.5_real64 * 0.1_real64 * biomass / 50.0_real64)) &
          * wetness / (0.3_real64 + wetness) / (1.0_real64 + exp(-0.3_real64 * (temperature - 6.0_real64)))
    litter = biomass_turnover * biomass
    respiration = soil_turnover * q10**((temperature - 10.0_real64) / 10.0_real64) * wetness * carbon
    evapotranspiration = min(evaporation * radiation * wetness, water)
    biomass = biomass + 0.5_real64 * gpp - litter
    carbon = carbon + litter - respiration
    water = min(max(water + rain - evapotranspiration, 0.0_real64), bucket_depth)
    write (fluxes, '(2es24.15e3)') respiration - 0.5_real64 * gpp, evapotranspiration
  end do
  close (fluxes)

contains

  subroutine misbehave(parameters)
    real(real64), intent(in) :: parameters(:)
    real(real64) :: lot, crash, hang
    character(len=512) :: folder
    character(len=32) :: number
    integer :: unit, length, i
    integer(8) :: clock

    call get_environment_variable('LAND_LOG', folder, length)
    if (length > 0) then
      call system_clock(clock)
      write (number, '(i0,"-",i0)') getpid(), clock
      open (newunit=unit, file=trim(folder)//'/'//trim(number), status='new', action='write')
      write (unit, '(*(es24.15e3))') parameters
      close (unit)
    end if
    ! A number in 0 to 1 that looks drawn, and is the same for the same parameters.
    lot = 0.0_real64
    do i = 1, size(parameters)
      lot = lot + parameters(i) * (12.9898_real64 + 65.1_real64 * i)
    end do
    lot = modulo(abs(sin(lot)) * 43758.5453_real64, 1.0_real64)
    crash = share('LAND_CRASH')
    hang = share('LAND_HANG')
    if (lot < crash) then
      write (error_unit, '(a)') 'land: energy balance not closed'
      error stop 7
    end if
    do while (lot < crash + hang)
      call sleep(1)
    end do
  end subroutine misbehave

  function share(name) result(value)
    character(len=*), intent(in) :: name
    real(real64) :: value
    character(len=32) :: text
    integer :: length

    value = 0.0_real64
    call get_environment_variable(name, text, length)
    if (length > 0) read (text, *) value
  end function share

end program land
